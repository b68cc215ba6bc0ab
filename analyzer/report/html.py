# SPDX-License-Identifier: Apache-2.0
"""The report page: an `Analysis` in, one HTML document out that needs no network and no script.

Everything is escaped by Jinja2; only our own style sheet and script go in as they are.  The
content security policy names the hash of that script, so that nothing else could ever run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from analyzer.codes import CODES
from analyzer.records import Analysis, DataInfo, LayerError, Quantizer
from analyzer.report import tables
from analyzer.store import to_json

# The page shall stay below 1 MB for a model of 100 layers; per-channel scales can fill more.
_DOWNLOAD_LIMIT = 400_000  # bytes of base64
_FLOOR, _CEILING = 1e-6, 1.0  # NSRs at the two ends of an inline bar


@dataclass(frozen=True, slots=True)
class _Cell:
    """A measured value in the table of layers.

    Attributes:
        text: with its unit, or a dash.
        sort: what the script sorts by, empty if not measured.
        bar: width of the inline bar in percent, None for no bar.
    """

    text: str
    sort: str
    bar: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """One layer as the template shows it."""

    layer: LayerError
    order: int
    cells: tuple[_Cell, ...]
    status: str
    by_output: tuple[tuple[str, str], ...]
    parts: tuple[tuple[str, str], ...]


def render_html(analysis: Analysis) -> str:
    """Return the report as one self-contained page; equal analyses give equal pages."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analyzer.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=tables.percent,
        interval=tables.interval,
        decibel=tables.decibel,
        cosine=tables.cosine,
        number=tables.number,
        ratio=tables.ratio,
        duration=tables.duration,
        name=tables.printable,
        scale=_scale,
        shapes=_shapes,
        value=_value,
    )
    script = _asset("report.js")
    # Markup: these two files are ours, and escaping would break them.
    page = environment.get_template("report.html.j2").render(
        analysis=analysis,
        codes=CODES,
        script=Markup(script),  # noqa: S704
        script_hash=_csp_hash(script),
        style=Markup(_asset("report.css")),  # noqa: S704
        plots=_plots(analysis),
        download=_download(analysis),
        **_view(analysis),
    )
    # Lone surrogates in a path have no UTF-8 form.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _view(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    worst = analysis.worst_output
    ranked = tables.rank(analysis.layers)
    order = {id(layer): index for index, layer in enumerate(analysis.layers)}
    return {
        "headline": tables.headline(analysis),
        "verdict": tables.verdict(analysis),
        "worst": worst,
        "balance": tables.balance(worst),
        "additive": tables.ADDITIVE,
        "rows": [_row(layer, order[id(layer)]) for layer in ranked],
        "model": {k: v for k, v in analysis.provenance.model.items() if k != "notes"},
        "notes": _notes(analysis),
    }


def _row(layer: LayerError, order: int) -> _Row:
    errors = (layer.isolated_nsr, layer.local_nsr, layer.graphwise_nsr)
    return _Row(
        layer=layer,
        order=order,
        cells=(
            *(_Cell(tables.percent(nsr), _sort_key(nsr), _bar(nsr)) for nsr in errors),
            _Cell(tables.cosine(layer.graphwise_cosine), _sort_key(layer.graphwise_cosine)),
        ),
        status="" if layer.status == "ok" else layer.status,
        by_output=tuple((k, tables.percent(v)) for k, v in layer.isolated_by_output.items()),
        parts=tuple((k, f"{100 * v:.1f} %") for k, v in layer.parts.items()),
    )


def _sort_key(value: float | None) -> str:
    """A number as JavaScript reads it; NaN counts as the worst value there is."""
    if value is None:
        return ""
    if math.isfinite(value):
        return repr(float(value))
    return "-Infinity" if value < 0 else "Infinity"


def _bar(nsr: float | None) -> str | None:
    if nsr is None or nsr <= 0:
        return None
    nsr = _CEILING if math.isnan(nsr) else min(max(nsr, _FLOOR), _CEILING)
    return f"{100 * math.log(nsr / _FLOOR) / math.log(_CEILING / _FLOOR):.0f}"


def _notes(analysis: Analysis) -> list[str]:
    notes = analysis.provenance.model.get("notes", ())
    loading = [str(note) for note in notes] if isinstance(notes, list | tuple) else [str(notes)]
    return [*loading, *analysis.plan.notes, *_skipped(analysis.provenance.data)]


def _skipped(data: Iterable[DataInfo]) -> list[str]:
    return [f"{info.role} data skipped: {entry}" for info in data for entry in info.skipped]


def _plots(analysis: Analysis) -> list[dict[str, str | None]]:
    from analyzer.report.plots import graphwise_plot, isolated_plot

    worst = tables.rank(analysis.layers)[:3]
    infinite = sum(layer.isolated_nsr == math.inf for layer in analysis.layers)
    missing = f" Not drawn: {tables.plural(infinite, 'layer')} with inf." if infinite else ""
    names = ", ".join(
        f"{tables.printable(layer.name)} {tables.percent(layer.isolated_nsr)}" for layer in worst
    )
    final = tables.percent(analysis.worst_output.nsr)
    candidates = [
        {
            "title": "Isolated error of the worst layers",
            "caption": "Only this layer quantized, everything else in FP32. "
            f"Whiskers: 95 % interval.{missing}",
            "alt": f"Bar chart of isolated errors, worst first: {names}. "
            "All values are in the table of layers.",
            "svg": isolated_plot(analysis),
        },
        {
            "title": "Error along the network",
            "caption": "Everything quantized. The line shows how noise builds up; a dot high "
            "above its neighbours is a layer that adds much of it.",
            "alt": "Line chart of the graphwise error in execution order, the local error of "
            f"each layer as dots. The worst output ends at {final}. "
            "All values are in the table of layers.",
            "svg": graphwise_plot(analysis),
        },
    ]
    return [
        {**plot, "svg": _data_uri("image/svg+xml", svg)}
        for plot in candidates
        if (svg := plot["svg"]) is not None
    ]


def _download(analysis: Analysis) -> str | None:
    """The analysis as a link, None where it would make the page too large to mail."""
    uri = _data_uri("application/json", to_json(analysis))
    return uri if len(uri) <= _DOWNLOAD_LIMIT else None


def _data_uri(kind: str, text: str) -> str:
    data = base64.b64encode(text.encode("utf-8", "backslashreplace")).decode("ascii")
    return f"data:{kind};base64,{data}"


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _asset(name: str) -> str:
    return resources.files("analyzer.report").joinpath("assets", name).read_text("utf-8")


def _scale(quantizer: Quantizer) -> str:
    if quantizer.scale is None:
        return tables.NOT_MEASURED
    low, high = float(quantizer.scale.min()), float(quantizer.scale.max())
    if quantizer.scale.size == 1:
        return f"{low:.6g}"
    return f"{quantizer.scale.size} scales, {low:.3g} .. {high:.3g}"


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(
        f"{tables.printable(name)} {' x '.join(map(str, shape))}" for name, shape in shapes.items()
    )


def _value(value: object) -> str:
    """A configuration value for reading: text as it is, numbers grouped, the rest as JSON."""
    if isinstance(value, str):
        return tables.printable(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return tables.printable(json.dumps(value, ensure_ascii=False, default=str))
