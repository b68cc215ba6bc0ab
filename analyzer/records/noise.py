# SPDX-License-Identifier: Apache-2.0
"""What was measured: errors of layers and outputs, where they come from, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Outside of this additivity, isolated errors do not add up to the accumulated one.
ADDITIVE = (0.7, 1.5)


@dataclass(frozen=True, slots=True)
class LayerError:
    """One row of the table.  NSRs are power ratios; None means not measured, see `status`.

    Attributes:
        status: "ok", or why a value is missing ("float: the target leaves it in FP32", ...).
        isolated_ci: 95 % interval of `isolated_nsr`.
        isolated_samples: how many samples `isolated_nsr` is the mean of.
        parts: of the worst rows.  Shares of the isolated noise by origin: "weight", "input",
            "output", "bias" (they sum to 1); shares of the noise power at the row's own
            quantizers: "rounding", "clipping" (they sum to 1), and "weight_clipping" ... of each
            origin by itself.  A key is missing where its noise is 0 or not finite.
        channels: of the worst rows: the output channels that carry most of the local noise, with
            their share of it.
    """

    name: str
    op_type: str
    source_nodes: tuple[str, ...] = ()
    computing: bool = False
    macs: int | None = None
    precision: str = "int8"
    graphwise_nsr: float | None = None
    graphwise_cosine: float | None = None
    graphwise_sqnr_db: float | None = None
    graphwise_max_abs: float | None = None
    local_nsr: float | None = None
    isolated_nsr: float | None = None
    isolated_ci: tuple[float, float] | None = None
    isolated_samples: int = 0
    isolated_by_output: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    group: str | None = None
    status: str = "ok"
    findings: tuple[str, ...] = ()
    channels: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class OutputError:
    """Accumulated error at one graph output, or a slice of one, everything quantized.

    Attributes:
        isolated_sum: of the sources of noise (see `Balance`), each one alone.
        additivity: `isolated_sum` over `nsr`.
        explained: `isolated_sum` and the interactions that were measured.
        slice_of: output that this is a slice of, None for a whole output.
        lost: no sample has anything but zero here, although FP32 has.
    """

    name: str
    nsr: float
    sqnr_db: float
    cosine: float
    max_abs: float
    isolated_sum: float | None = None
    additivity: float | None = None
    explained: float | None = None
    slice_of: str | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of the balance: quantizers that no other entry holds, switched on together.

    Attributes:
        name: of the layer, or of the group of quantizers.
        kind: "layer": of one layer; "group": on one tensor, on tensors of the same values or
            with a common scale, held by several layers.
        layers: that hold the quantizers, in execution order.
        quantizers: (node, slot) of each.
        nsr: mean over the graph outputs, with nothing else quantized; None: not probed.
        ci: 95 % interval of `nsr`.
        samples: how many `nsr` is the mean of.
        by_output: graph output -> NSR, as far as comparable with the accumulated one.
        status: "ok", or why it was not probed.
        alignment_price: of a group with a common scale: NSR minus what it is when every tensor
            has the scale that its own range asks for, both on a few samples; below 0 where the
            common scale helps; None: not looked at.
    """

    name: str
    kind: Literal["layer", "group"]
    layers: tuple[str, ...]
    quantizers: tuple[tuple[str, str], ...]
    nsr: float | None = None
    ci: tuple[float, float] | None = None
    samples: int = 0
    by_output: Mapping[str, float] = field(default_factory=dict)
    status: str = "ok"
    alignment_price: float | None = None


@dataclass(frozen=True, slots=True)
class Interaction:
    """What two sets of sources do to an output together, beyond what each does alone.

    Attributes:
        output: graph output.
        first: name of a source.
        second: name of a source; None: all sources but `first` and those of `without`.
        without: sources switched off in all three runs.
        alone: NSR with only the first on, with only the second.
        together: NSR with both on.
        samples: how many these are means of.
    """

    output: str
    first: str
    second: str | None
    without: tuple[str, ...]
    alone: tuple[float, float]
    together: float
    samples: int

    @property
    def effect(self) -> float:
        """NSR that appears (or, below 0, vanishes) because both are there."""
        return self.together - sum(self.alone)


@dataclass(frozen=True, slots=True)
class Step:
    """One step along the graph: everything up to here quantized, everything behind in FP32.

    Attributes:
        layer: the last layer quantized.
        layers: how many are.
        by_output: graph output -> NSR.
    """

    layer: str
    layers: int
    by_output: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Balance:
    """Where the accumulated noise of the outputs comes from.

    Attributes:
        sources: all active quantizers, each in exactly one of them.
        interactions: measured where the sources' noises do not add up.
        steps: along the graph, in the order of a run; differences add up to the whole exactly.
    """

    sources: tuple[Source, ...]
    interactions: tuple[Interaction, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskScore:
    """How well the quantized model does the task.

    Attributes:
        name: "top-1", "box AP50" ...
        value: of the quantized model: agreement with the FP32 model, or the metric by labels.
        reference: the same metric of the FP32 model, where labels are given; else None.
        against: what the answers were held against.
        samples: how many were.
        outputs: graph outputs the answer is read from.
    """

    name: str
    value: float
    reference: float | None
    against: Literal["fp32", "labels"]
    samples: int
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a user should know, with the number behind it.

    Attributes:
        layer: where; None for the model or the data.
        evidence: numbers and names.
        gain: share of the output noise that went away when exactly this cause was removed and
            everything else left as it is, mean over the outputs and their slices; None where
            nothing can be removed.
    """

    code: str
    layer: str | None
    evidence: Mapping[str, Any]  # Any: numbers and names, as JSON holds them
    advice: str
    gain: float | None = None


def loudness(nsr: float) -> float:
    """Return an NSR to order by: one that is not a number is the worst there is.

    >>> loudness(0.1), loudness(math.nan)
    (0.1, inf)
    """
    return math.inf if math.isnan(nsr) else nsr


def sqnr_db(nsr: float) -> float:
    """Signal to quantization noise ratio in dB: -10 log10(nsr); inf for no noise at all."""
    if nsr == 0:
        return math.inf
    if math.isinf(nsr):
        return -math.inf
    return -10 * math.log10(nsr)
