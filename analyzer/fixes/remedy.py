# SPDX-License-Identifier: Apache-2.0
"""A remedy: what may be changed in what the user tells the quantizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from analyzer.records import Edit, Granularity, Observer, Setting


@dataclass(frozen=True, slots=True)
class Remedy:
    """One remedy, to be had by itself or together with others.

    Attributes:
        kind: "precision", "calibration", "granularity", "range", "separate_outputs" or the kind
            of an edit.
        layers: it is about; empty: the whole model.
        before, after: in the words of the target.
        table: layer -> precision.
        observer: of all activations.
        granularity: of all weights.
        ranges: tensor -> range.
        edit: of the graph.
        expected: share of the output noise that may go with it, guessed from the balance; None:
            no guess.
    """

    kind: str
    layers: tuple[str, ...]
    before: str
    after: str
    table: Mapping[str, str] = field(default_factory=dict)
    observer: Observer | None = None
    granularity: Granularity | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    edit: Edit | None = None
    expected: float | None = None

    @property
    def title(self) -> str:
        """One line: what is done where."""
        place = self.layers[0] if self.layers else "all layers"
        more = f" (+{len(self.layers) - 1})" if len(self.layers) > 1 else ""
        return f"{self.kind.replace('_', ' ')} {place}{more}: {self.before} → {self.after}"


def applied(setting: Setting, remedies: Iterable[Remedy]) -> Setting:
    """Return `setting` with remedies, later ones on top of earlier ones."""
    for remedy in remedies:
        edits = setting.edits if remedy.edit is None else (*setting.edits, remedy.edit)
        setting = replace(
            setting,
            observer=remedy.observer or setting.observer,
            granularity=remedy.granularity or setting.granularity,
            table={**setting.table, **remedy.table},
            ranges={**setting.ranges, **remedy.ranges},
            edits=edits,
        )
    return setting
