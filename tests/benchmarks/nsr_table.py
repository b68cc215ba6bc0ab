# SPDX-License-Identifier: Apache-2.0
"""Write what `nsr_and_metric.py` measured into .github/docs/nsr.md: tables and a plot.

python tests/benchmarks/nsr_table.py
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]  # one pair, as `nsr_and_metric.json` holds it
DOCS = Path(__file__).resolve().parents[2] / ".github" / "docs"
KEPT = Path(__file__).with_name("nsr_and_metric.json")
BANDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# kind -> its title, and what counts: a share of FP32's, or of answers that agree
KINDS = {
    "few": "classifiers, 2 or 10 classes: same answer",
    "many": "classifiers, 1000 classes: same answer",
    "boxes": "detectors: mAP50, INT8 over FP32",
    "tokens": "language model: same token",
}
# what the page speaks of: model, setting, lesson
EXAMPLES = (
    ("vww_mobilenet", "esp32p4, calibrated on 1 sample", "more noise, not one other answer"),
    ("resnet8_cifar10", "openvino", "a tenth of the answers change, and more of them are right"),
    ("squeezenet_imagenet", "esp32p4, minmax",
     "probabilities: loud noise on sure answers, the metric stays"),
    ("vww_mobilenet", "esp32p4", "a calibration that clips: the metric falls to half"),
    ("digits_dw", "outlier channel planted, onnxruntime", "the same NSR as the next row,"),
    ("digits_dw", "dead channel planted, onnxruntime", "but other noise: far less is lost"),
    ("digits_dw", "esp32p4, last half of the layers int16",
     "16 bits for half of the layers, and nothing works (QA201: a scale is shared across)"),
    ("blobs_det", "esp32p4", "one output for boxes and scores: it tells nothing of the scores"),
    ("blobs_det", "dead channel planted, esp32p4", "boxes in pixels: half a percent is much"),
    ("espdet_pico_cat", "esp32s3", "logits of scores stand more"),
    ("yolo11n_heads", "esp32p4", "the default of this quantizer, on a detector"),
    ("stories260k", "esp32p4", "every eighth token is another one, the text is nearly as likely"),
)  # fmt: skip
VALUES = (
    ("superres_subpixel", "esp32p4, last half of the layers int16"),
    ("superres_subpixel", "onnxruntime"), ("superres_subpixel", "onnxruntime, per tensor"),
    ("ad_autoencoder", "onnxruntime"), ("ad_autoencoder", "esp32p4, minmax"),
    ("ad_autoencoder", "esp32p4"), ("ad_autoencoder", "esp32p4, calibrated on 1 sample"),
)  # fmt: skip
_MARKED = "(<!-- {}: .*? -->\\n).*?(<!-- /{} -->)"


def kind_of(row: Row) -> str:
    """Return which column of the table of bands a pair belongs to, "" for none."""
    task = row["task"]
    if task.startswith("classification"):
        return "many" if "1000" in task else "few"
    return {"detection": "boxes", "language model": "tokens"}.get(task.split(",")[0], "")


def loudest(row: Row) -> float:
    """Return the NSR that is told: of the worst part of an output that joins several."""
    return max(row["outputs"].values())


def kept(row: Row) -> float:
    """Return how much of the answer is left, 1: all of it."""
    if kind_of(row) == "boxes":
        score = named(row, "mAP50")
        return score["int8"] / score["fp32"]
    same = agreement(row)
    assert same is not None
    return same["int8"]


def named(row: Row, name: str) -> Row:
    """Return the score of that name."""
    return next(score for score in row["scores"] if score["name"] == name)


def metric(row: Row) -> Row:
    """Return the score that is known for both models."""
    names = ("top-1", "mAP50", "PSNR", "perplexity", "anomaly score")
    return next(s for s in row["scores"] if s["fp32"] is not None and s["name"] in names)


def bands(rows: Sequence[Row]) -> str:
    """Return the table of what is left at which NSR: lowest, median and highest of the pairs."""
    edges = (0.0, *BANDS, math.inf)
    lines = _head("NSR", *KINDS.values())
    for low, high in itertools.pairwise(edges):
        cells = []
        for kind in KINDS:
            found = [kept(r) for r in rows if kind_of(r) == kind and low <= loudest(r) < high]
            cells.append(_spread(found))
        lines.append(f"| {_band(low, high)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _band(low: float, high: float) -> str:
    if low == 0:
        return f"below {100 * high:g} %"
    return f"above {100 * low:g} %" if math.isinf(high) else f"{100 * low:g} .. {100 * high:g} %"


def _spread(found: Sequence[float]) -> str:
    if not found:
        return ""
    low, middle, high = (100 * f(found) for f in (np.min, np.median, np.max))
    if len(found) == 1:
        return f"{middle:.0f} % (1)"
    return f"**{middle:.0f} %** ({low:.0f} .. {high:.0f}, {len(found)})"


def ranks(rows: Sequence[Row]) -> str:
    """Return the table of models: how well NSR ranks the settings of one."""
    lines = _head(
        "model", "task", "samples", "pairs", "NSR from .. to", "metric, FP32", "INT8 from .. to",
        "rank correlation",
    )  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        values, noise = [metric(row)["int8"] for row in mine], [loudest(row) for row in mine]
        cells = [
            f"`{model}`", mine[0]["task"], str(mine[0]["samples"]), str(len(mine)),
            f"{percent(min(noise))} .. {percent(max(noise))}",
            f"{metric(mine[0])['name']} {metric(mine[0])['fp32']:.4g}",
            f"{min(values):.4g} .. {max(values):.4g}",
            f"{spearman(noise, [harm(row) for row in mine]):.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def harm(row: Row) -> float:
    """Return a number that is the higher, the less is left: by agreement where it is known."""
    same = agreement(row)
    if same:
        return -same["int8"]
    score = metric(row)
    return -score["int8"] if score["name"] == "PSNR" else score["int8"]


def agreement(row: Row) -> Row | None:
    """Return the first score against FP32, if there is one."""
    return next((score for score in row["scores"] if score["against"] == "fp32"), None)


def examples(rows: Sequence[Row]) -> str:
    """Return the pairs that the page speaks of."""
    lines = _head(
        "model, setting", "NSR, worst output", "metric, FP32 → INT8", "against FP32", "it shows"
    )
    for model, setting, lesson in EXAMPLES:
        row = next(r for r in rows if (r["model"], r["setting"]) == (model, setting))
        score, same = metric(row), agreement(row)
        parts = [f"`{name}` {percent(nsr)}" for name, nsr in row["outputs"].items() if "[" in name]
        cells = [
            f"`{model}`, {setting}", "<br>".join([percent(row["worst_nsr"]), *parts]),
            f"{score['name']} {score['fp32']:.4g} → {score['int8']:.4g}",
            f"{same['int8']:.3f}" if same else "", lesson,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def errors(rows: Sequence[Row]) -> str:
    """Return what follows for outputs that are values from the NSR, and what was measured."""
    lines = _head(
        "model", "setting", "NSR", "own error of FP32", "metric, FP32", "expected", "measured"
    )
    for model, setting in VALUES:
        row = next(r for r in rows if (r["model"], r["setting"]) == (model, setting))
        score, own = metric(row), named(row, "own error")["int8"]
        more = 1 + row["worst_nsr"] / own
        found = score["fp32"] - 10 * math.log10(more)
        expected = found if score["name"] == "PSNR" else score["fp32"] * more
        cells = [
            f"`{model}`", setting, percent(row["worst_nsr"]), percent(own),
            f"{score['name']} {score['fp32']:.3g}", f"{expected:.3g}", f"{score['int8']:.3g}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the rank correlation, ties sharing their mean rank."""

    def places(values: Sequence[float]) -> np.ndarray:
        array = np.asarray(values, np.float64)
        below = (array[:, None] > array[None]).sum(axis=1)
        return below + ((array[:, None] == array[None]).sum(axis=1) - 1) / 2

    return float(np.corrcoef(places(a), places(b))[0, 1])


def pairs(rows: Sequence[Row]) -> str:
    """Return all pairs, model by model, the quietest setting first."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = sorted((row for row in rows if row["model"] == model), key=loudest)
        score = metric(mine[0])
        told = f"<code>{model}</code>: {mine[0]['task']}, {len(mine)} pairs"
        title = f"{score['name']}, FP32 {score['fp32']:.4g}"
        lines += [f"<details><summary>{told}</summary>", ""]
        lines += _head("setting", "NSR, worst output", "worst part", title, "against FP32")
        for row in mine:
            part = loudest(row)
            same = agreement(row)
            cells = [
                row["setting"], percent(row["worst_nsr"]),
                percent(part) if part > row["worst_nsr"] else "",
                f"{metric(row)['int8']:.4g}",
                f"{same['name']} {same['int8']:.3f}" if same else "",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "</details>", ""]
    return "\n".join(lines)


def _head(*titles: str) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def percent(nsr: float) -> str:
    """Return an NSR as the reports print it, in three digits."""
    value = 100 * nsr
    if value >= 100:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if value < 0.001 else f"{float(f'{value:.3g}'):g} %"


def written(page: str) -> str:
    """Return the page with the tables as they are now."""
    rows = json.loads(KEPT.read_text(encoding="utf-8"))
    for make in (bands, examples, errors, ranks, pairs):
        name = make.__name__
        marked, text = re.compile(_MARKED.format(name, name), re.DOTALL), make(rows)
        found = marked.search(page)
        assert found, name
        page = page[: found.end(1)] + text + page[found.start(2) :]
    return page


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw every pair of a kind that has an answer: NSR to the right, what is left upwards."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "qanalyze", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        colours = ("#2a7fb8", "#d95f02", "#1b9e77", "#b0508f")
        for (kind, title), shape, colour in zip(KINDS.items(), "os^D", colours, strict=True):
            mine = [row for row in rows if kind_of(row) == kind]
            axes.plot(
                [100 * max(loudest(row), 1e-5) for row in mine], [100 * kept(row) for row in mine],
                shape, color=colour, alpha=0.65, markersize=5.5, label=title,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(1e-3 * 0.9, 300)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set_xlabel("NSR of the worst output, or of its worst part, in % (0.001: or less)")
        axes.set_ylabel("left of the answer, in %")
        axes.grid(True, color="#767676", alpha=0.25, linewidth=0.6)
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(),
                     *axes.get_yticklabels()):  # fmt: skip
            text.set_color("#767676")
        axes.tick_params(colors="#767676", which="both")
        for spine in axes.spines.values():
            spine.set_color("#767676")
        axes.legend(frameon=False, labelcolor="#767676", loc="lower left", fontsize=9)
        # no date: equal pairs give an equal file
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    path = DOCS / "nsr.md"
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
    draw(json.loads(KEPT.read_text(encoding="utf-8")), DOCS / "nsr.svg")
