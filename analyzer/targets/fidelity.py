# SPDX-License-Identifier: Apache-2.0
"""How near each target comes to the quantizer it imitates, as it was measured.

The figures stand in `fidelity.json`; the scripts `tests/benchmarks/fidelity_*.py` measure them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Fidelity:
    """One comparison of a target with its peer.

    Attributes:
        peer: the real quantizer, with its version.
        date: of the measurement, ISO.
        script: that measures it again.
        compared: on what: models, settings.
        placed: share of quantizers placed alike.
        scales: how far scales are apart, in words.
        output: how far the simulated output is from the peer's, in words.
        differs: what is known to differ, and why; empty if nothing is.
    """

    peer: str
    date: str
    script: str
    compared: str
    placed: float
    scales: str
    output: str
    differs: str = ""

    def sentence(self) -> str:
        """Say it in one line."""
        return (
            f"{self.peer}, {self.compared}: {share(self.placed)} placed alike, scales "
            f"{self.scales}, {self.output} ({self.date})"
        )


def fidelity_of(target: str) -> Fidelity | None:
    """Return what was measured for a target, None for one that nobody compared."""
    entry = _all().get(target)
    return Fidelity(**entry) if entry else None


@cache
def _all() -> dict[str, Any]:  # Any: texts and a number, as JSON holds them
    text = files("analyzer.targets").joinpath("fidelity.json").read_text(encoding="utf-8")
    entries: dict[str, Any] = json.loads(text)
    return entries


def share(value: float) -> str:
    """Write a share that must not be rounded up to 100 %.

    >>> share(1.0), share(0.99996), share(0.985)
    ('100 %', '99.99 %', '98.5 %')
    """
    if value == 1:
        return "100 %"
    # the small term: 0.985 is a little less than that in binary
    text = f"{int(value * 10000 + 1e-6) / 100:.2f}".rstrip("0").rstrip(".")
    return f"{text} %"
