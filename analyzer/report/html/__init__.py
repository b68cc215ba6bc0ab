# SPDX-License-Identifier: Apache-2.0
"""The report page: an `Analysis` in, one HTML document out that needs no network and no script.

Everything is escaped by Jinja2; only our own style sheets and scripts go in as they are.  The
content security policy names the hash of that script, so that nothing else could ever run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from analyzer.records import ADDITIVE, Analysis, Quantizer
from analyzer.report import advice, ledger, tables, wording
from analyzer.report.html import (
    changes,
    downloads,
    images,
    network,
    profiles,
    rows,
    verdict,
    view,
)
from analyzer.report.html.environment import environment
from analyzer.report.spreadsheets import render_csv
from analyzer.store import to_json

_TARGET = 980_000  # bytes; what is meant to be mailed shall stay below 1 MB
_LONGEST_PLAN = 300  # quantizers listed; a list of thousands is data, and in analysis.json
_DOWNLOADS = "<!-- downloads -->"  # nothing in the page can read so: names are escaped
_SCRIPTS = ("report.js", "network.js")
_STYLES = ("report.css", "network.css", "profiles.css", "changes.css")


def render_html(analysis: Analysis, baseline: Analysis | None = None) -> str:
    """Return the report as one self-contained page; equal analyses give equal pages.

    Args:
        analysis: the result.
        baseline: what it is held against, if anything.
    """
    from markupsafe import Markup

    templates = environment()
    templates.filters.update(
        percent=tables.percent,
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
        steps=advice.steps,
        layers=advice.layers_of,
        kind=advice.kind,
        costs=advice.costs,
        times=advice.times,
        scale=_scale,
        shapes=_shapes,
        value=view.value,
    )
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    # Markup: these files are ours, and escaping would break them.
    page = templates.get_template("report.html.j2").render(
        analysis=analysis,
        script=Markup(script),  # noqa: S704
        script_hash=_csp_hash(script),
        style=Markup("\n".join(_asset(name) for name in _STYLES)),  # noqa: S704
        **_top(analysis),
        **_layers(analysis),
        **_noise(analysis),
        **_advice(analysis),
        **network.context(analysis),
        **profiles.context(analysis),
        **changes.context(analysis, baseline),
    )
    # Lone surrogates in a path have no UTF-8 form.
    page = page.encode("utf-8", "backslashreplace").decode("utf-8")
    files = downloads.downloads(
        {"analysis.json": to_json(analysis), "layers.csv": render_csv(analysis)},
        _TARGET - len(page.encode("utf-8")),
    )
    section = templates.get_template("downloads.html.j2").render(files=files)
    return page.replace(_DOWNLOADS, section)


def _top(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    bits = {q.bits for q in analysis.plan.quantizers if q.active and q.role == "activation"}
    return {
        "headline": wording.headline(analysis),
        "verdict": wording.verdict(analysis),
        "culprits": verdict.culprits(analysis),
        "cause": verdict.cause(analysis),
        "figures": verdict.figures(analysis),
        "basis": verdict.basis(analysis),
        "bits": "few" if not bits else min(bits),
        "provenance": view.provenance(analysis),
        "model": {k: v for k, v in analysis.provenance.model.items() if k != "notes"},
        "notes": view.notes(analysis),
    }


def _layers(analysis: Analysis) -> dict[str, Any]:  # Any: see above
    found = rows.rows(analysis)
    cards, more = view.cards(analysis)
    return {
        "rows": found,
        "problems": sum(row.hurts for row in found),
        "large": len(found) > rows.LARGE,
        "least": tables.share(rows.PROBLEM),
        "parted": any(row.origins or row.kinds for row in found),
        "isolated": images.isolated(analysis),
        "origins": wording.ORIGINS,
        "kinds": wording.KINDS,
        "places": {layer.name: index for index, layer in enumerate(analysis.layers)},
        "cards": cards,
        "more_cards": more,
    }


def _noise(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    return {
        "worst": analysis.worst_output,
        "whole": [output for output in analysis.outputs if output.slice_of is None],
        "outputs": ledger.in_families(analysis.outputs),
        "lost": wording.LOST,
        "additive": ADDITIVE,
        "ledgers": view.ledgers(analysis),
        "rises": view.rises(analysis),
        "waterfall": images.waterfall(analysis),
        "graphwise": images.graphwise(analysis),
    }


def _advice(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    plans = advice.front(analysis)
    counts = {p.samples for p in plans if p.samples}
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
        "pareto": images.pareto(analysis),
        "tools": view.tools(analysis),
        "longest_plan": _LONGEST_PLAN,
    }


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _asset(name: str) -> str:
    return resources.files("analyzer.report.html").joinpath("assets", name).read_text("utf-8")


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
