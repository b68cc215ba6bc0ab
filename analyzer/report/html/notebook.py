# SPDX-License-Identifier: Apache-2.0
"""What a notebook shows of an `Analysis`: a compact piece of HTML, or one line of text.

Styles are inline and take the page's own colours, so that it is readable in light and dark
notebooks; there is no script.
"""

from __future__ import annotations

import math

from analyzer.records import Analysis, LayerError
from analyzer.report import advice, tables, wording
from analyzer.report.html.environment import environment

_WORST = 10
_MOST = 5  # findings and plans
_NAME = 64  # characters


def render_notebook(analysis: Analysis) -> str:
    """Return the verdict, the ten worst layers, findings and plans; everything escaped."""
    templates = environment()
    templates.filters.update(
        percent=tables.percent, printable=tables.printable, short=_short, in_words=advice.in_words,
        remainder=tables.remainder,
    )  # fmt: skip
    layers = tables.rank(analysis.layers)[:_WORST]
    found = wording.findings(analysis.findings)
    plans = advice.front(analysis)
    best = advice.recommended(analysis)
    page = templates.get_template("notebook.html.j2").render(
        headline=" · ".join(wording.headline(analysis)),
        verdict=wording.verdict(analysis),
        answer=wording.answer(analysis.task),
        reason=advice.reason(best) if best else advice.silence(analysis),
        layers=[(layer, bar, " ".join(layer.findings)) for layer, bar in _bars(layers)],
        more=len(analysis.layers) - len(layers),
        findings=found[:_MOST],
        more_findings=max(len(found) - _MOST, 0),
        plans=[
            (plan, ", ".join(advice.costs(plan.costs)), advice.worst(plan.outputs_after, analysis))
            for plan in plans[:_MOST]
        ],
        more_plans=max(len(analysis.proposals) - min(len(plans), _MOST), 0),
        warnings=len(analysis.warnings),
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names with lone surrogates


def in_one_line(analysis: Analysis) -> str:
    """Return what was analysed and how bad it is, as one line of text."""
    what = " · ".join(wording.headline(analysis))
    return f"<Analysis {what}: {wording.verdict(analysis)}>"


def _bars(layers: list[LayerError]) -> list[tuple[LayerError, int]]:
    """Return layers with their isolated error as a percentage of the worst finite one."""
    values = [_finite(layer.isolated_nsr) for layer in layers]
    most = max(values, default=0.0)
    return [
        (
            layer,
            100 if layer.isolated_nsr == math.inf else round(100 * value / most) if most else 0,
        )
        for layer, value in zip(layers, values, strict=True)
    ]


def _finite(nsr: float | None) -> float:
    return nsr if nsr is not None and math.isfinite(nsr) else 0.0


def _short(name: str) -> str:
    return tables.shorten(tables.printable(name), _NAME) or "(unnamed)"
