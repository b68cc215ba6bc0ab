# SPDX-License-Identifier: Apache-2.0
"""What may be changed, what that costs, and what it was measured to bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from analyzer.records.plan import Setting


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan costs beyond the one it is held against.

    Attributes:
        macs: share of the model's multiply-accumulates in layers with more than 8 bits, or float.
        elements: share of the elements that layers write in such layers.
        weight_bytes: growth of the weights, as a share of what they were.
        nodes: that are added.
        time: of a run, as a multiple of what it was; by the target's factors, or by the user's
            own measurements.
        milliseconds: by the user's own measurements; None without any.
    """

    macs: float = 0.0
    elements: float = 0.0
    weight_bytes: float = 0.0
    nodes: int = 0
    time: float = 1.0
    milliseconds: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One remedy of a proposal.

    Attributes:
        kind: "precision", "calibration", "range", "weight_split" ...
        layer: where, the first one of `layers`; empty: everywhere.
        before, after: in the words of the target.
        cost: share of the model's multiply-accumulates that it moves by itself; 0 also where that
            was not told apart from what changes before it move.
        predicted_nsr: mean over the outputs with this change and those before it in the list, as
            foretold before it was measured; None: not foretold.
        measured_nsr: the same, measured; None: only together with later ones.
        layers: all that it is about.
    """

    kind: str
    layer: str
    before: str
    after: str
    cost: float = 0.0
    predicted_nsr: float | None = None
    measured_nsr: float | None = None
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A set of changes that was simulated together, with scales found for it.

    Attributes:
        name: "plan 1" ...
        recommended: the one to write into the config.
        cost: share of the model's multiply-accumulates that it moves, see `costs`.
        outputs_before, outputs_after: output -> NSR, on the same samples.
        task_before, task_after: score -> value.
        costs: all of it.
        left: share of the output noise that is left, mean over the outputs; above 1: more noise.
        predicted: `left` as foretold before it was measured; None: not foretold.
        samples: how many all this is the mean of.
        front: no other proposal is cheaper and better.
        why: it is recommended, or not.
        setting: what it asks the target for.
    """

    name: str
    recommended: bool
    changes: tuple[Change, ...]
    cost: float
    outputs_before: Mapping[str, float]
    outputs_after: Mapping[str, float]
    task_before: Mapping[str, float] = field(default_factory=dict)
    task_after: Mapping[str, float] = field(default_factory=dict)
    costs: Cost = field(default_factory=Cost)
    left: float = 1.0
    predicted: float | None = None
    samples: int = 0
    front: bool = False
    why: str = ""
    setting: Setting = field(default_factory=Setting)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One simulation on the way to the proposals.

    Attributes:
        changes: in words, on top of `base`.
        base: name of the plan it starts from.
        predicted: share of the base's output noise that would be left; None: not foretold.
        measured: share that is.
        verdict: "kept", "dropped: ...", "hurts: ..." and the like.
        samples: how many `measured` is the mean of.
        costs: of the whole set; None where `measured` is not a share of the noise at the start,
            so that the two cannot be held against each other.
    """

    name: str
    changes: tuple[str, ...]
    base: str
    predicted: float | None
    measured: float
    verdict: str
    samples: int
    costs: Cost | None = None
