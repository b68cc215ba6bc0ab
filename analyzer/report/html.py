# SPDX-License-Identifier: Apache-2.0
"""The report page: an `Analysis` in, one HTML document out that needs no network and no script.

Everything is escaped by Jinja2; only our own style sheet and script go in as they are.  The
content security policy names the hash of that script, so that nothing else could ever run.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

from analyzer.records import ADDITIVE, Analysis, Quantizer
from analyzer.report import advice, changes, ledger, network, profiles, tables, view, wording
from analyzer.store import to_json

# The page shall stay below 1 MB for a model of 100 layers; per-channel scales can fill more.
_DOWNLOAD_LIMIT = 400_000  # bytes of base64
_SCRIPTS = ("report.js", "network.js")
_STYLES = ("report.css", "network.css", "profiles.css", "changes.css")


def render_html(analysis: Analysis, baseline: Analysis | None = None) -> str:
    """Return the report as one self-contained page; equal analyses give equal pages.

    Args:
        analysis: the result.
        baseline: what it is held against, if anything.
    """
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
        share=tables.share,
        remainder=tables.remainder,
        signed=tables.signed,
        score=wording.value,
        duration=tables.duration,
        name=tables.printable,
        scored=wording.scored,
        worst=lambda nsr: advice.worst(nsr, analysis),
        in_words=advice.in_words,
        layers=advice.layers_of,
        kind=advice.kind,
        costs=advice.costs,
        times=advice.times,
        scale=_scale,
        shapes=_shapes,
        value=view.value,
    )
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    # Markup: these two files are ours, and escaping would break them.
    page = environment.get_template("report.html.j2").render(
        analysis=analysis,
        script=Markup(script),  # noqa: S704
        script_hash=_csp_hash(script),
        style=Markup("\n".join(_asset(name) for name in _STYLES)),  # noqa: S704
        plots=_plots(analysis),
        waterfall=_waterfall(analysis),
        **_advice(analysis),
        download=_download(analysis),
        **_view(analysis),
        **network.context(analysis),
        **profiles.context(analysis),
        **changes.context(analysis, baseline),
    )
    # Lone surrogates in a path have no UTF-8 form.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _view(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    cards, more = view.cards(analysis)
    return {
        "headline": wording.headline(analysis),
        "verdict": wording.verdict(analysis),
        "answer": wording.answer(analysis.task),
        "worst": analysis.worst_output,
        "whole": [output for output in analysis.outputs if output.slice_of is None],
        "outputs": ledger.in_families(analysis.outputs),
        "additive": ADDITIVE,
        "cards": cards,
        "more_cards": more,
        "ledgers": view.ledgers(analysis),
        "rises": view.rises(analysis),
        "makeups": view.makeups(analysis),
        "origins": wording.ORIGINS,
        "kinds": wording.KINDS,
        "lost": wording.LOST,
        "rows": view.rows(analysis),
        "places": {layer.name: index for index, layer in enumerate(analysis.layers)},
        "model": {k: v for k, v in analysis.provenance.model.items() if k != "notes"},
        "notes": view.notes(analysis),
    }


def _advice(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    from analyzer.report.plots import pareto_plot

    plans = advice.front(analysis)
    counts = {p.samples for p in plans if p.samples}
    svg = pareto_plot(analysis)
    lines = "; ".join(
        f"{tables.printable(p.name)}{' (recommended)' if p.recommended else ''}: "
        f"{', '.join(advice.costs(p.costs))}, {tables.remainder(p.left)} left"
        for p in plans
    )
    return {
        "plans": plans,
        "best": advice.recommended(analysis),
        "free": advice.free(analysis),
        "silence": advice.silence(analysis),
        "samples": tables.plural(counts.pop(), "sample") if len(counts) == 1 else "",
        "timed": any(p.costs.milliseconds is not None for p in plans),
        "scores": list(dict.fromkeys(name for p in plans for name in p.task_after)),
        "error": advice.prediction_error((p.predicted, p.left) for p in analysis.proposals),
        "attempts_error": advice.prediction_error(
            (a.predicted, a.measured) for a in analysis.attempts
        ),
        "heard": advice.HEARD,
        "pareto": None if svg is None else _data_uri("image/svg+xml", svg),
        "pareto_alt": f"Plot of the share of the output noise left against the cost. {lines}. "
        "All values are in the table of plans.",
    }


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


def _waterfall(analysis: Analysis) -> str | None:
    from analyzer.report.plots import steps_plot

    svg = steps_plot(analysis)
    return None if svg is None else _data_uri("image/svg+xml", svg)


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
