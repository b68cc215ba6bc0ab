# SPDX-License-Identifier: Apache-2.0
"""What the stages hand to each other: plain records, no behaviour beyond look-ups.

Importing this module imports numpy and nothing heavier, so that an old analysis can be rendered
on a machine without onnx and onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Rounding = Literal["half_even", "half_up"]
Granularity = Literal["channel", "tensor"]
Role = Literal["input", "weight", "bias", "activation", "constant"]
Observer = str  # name of a range observer: "minmax", "percentile", "kl" ... (see Target.observers)
# Input name -> array of one run.  Any: float32, but also int64 tokens and bool masks.
Sample = Mapping[str, npt.NDArray[Any]]

# Outside of this additivity, isolated errors do not add up to the accumulated one.
ADDITIVE = (0.7, 1.5)


class Samples(Protocol):
    """Prepared inputs, one run each; reading one again gives the same arrays."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int, /) -> Sample:
        """Return one of them; several threads may ask at once."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: `shape` holds an int per known axis and None per free one."""

    name: str
    dtype: str  # numpy name: "float32", "int64", "bool" ...
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """An FP32 graph in canonical form (see `load.py`), with the way back to the user's names.

    Attributes:
        proto: the graph that is simulated: weights are initializers, every node has a unique name.
        name: stem of the file.
        sha256: hex digest of the file (and of its external data).
        inputs, outputs: of the graph, initializers excluded.
        shapes: static shape of every tensor once `bind_shapes` has run, else empty.
        dtypes: numpy dtype name of every tensor once `bind_shapes` has run, else empty.
        source_nodes: canonical node name -> names (or `op_type#index`) of the user's nodes in it.
        op_types: canonical node name -> op type to print, where it differs from the node's own
            (a fused `Swish`, say).
        macs: canonical node name -> multiply-accumulates for one run, computing layers only.
        notes: one sentence per thing that was changed or left alone while loading.
        metadata: `metadata_props` of the file (Ultralytics keeps its preprocessing there).
        rewritten: a target's own simplifier has run (`Target.rewrite`); what does nothing and is
            still there is left to the target.
        slices: graph output that was added to look at a part of another one -> that other one.
    """

    proto: onnx.ModelProto
    path: Path
    name: str
    sha256: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source_nodes: Mapping[str, tuple[str, ...]]
    op_types: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    rewritten: bool = False
    slices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One fake-quantization at one node slot.

    Attributes:
        node: layer name as the target's own tool prints it.
        slot: `in0`, `in1` ... or `out0` ...
        tensor: name of the tensor in the canonical graph.
        axis: channel axis of a per-channel quantizer, else None.
        scale: float64, one value, or one per channel; None before calibration.
        zero_point: int64, shaped as `scale`.
        group: name of the set of quantizers that share one scale, None when alone.
        active: False where the target leaves this slot to another quantizer (or in float).
        observer: how the range of an own scale is found; None where the scale is taken from
            elsewhere.
        follows: `(node, slot)` whose scale this one uses; None for an own scale.
        fixed_range: range the target sets without looking at data (a Softmax output, say).
        observes: tensors whose ranges are united into this quantizer's one (inputs of a Concat
            with a shared scale, say); empty: `tensor` alone.  A bias that names its layer's input
            here has the weight widened by that tensor's own range, whatever scale it follows.
        range: smallest and largest value seen while calibrating; None where the scale does not
            stand on data.
        stored: float32, what the quantizer made of a constant, where that is known and need not
            be the rounded one (a weight out of a quantized file, say).
        replaces_node: the quantizer drops the node that this one stands behind (a Relu, whose
            clipping is left to the grid): its input 0 is quantized in its place.
    """

    node: str
    slot: str
    tensor: str
    role: Role
    bits: int
    signed: bool = True
    symmetric: bool = True
    axis: int | None = None
    scale: npt.NDArray[np.float64] | None = None
    zero_point: npt.NDArray[np.int64] | None = None
    qmin: int = -128
    qmax: int = 127
    rounding: Rounding = "half_even"
    group: str | None = None
    active: bool = True
    observer: Observer | None = None
    follows: tuple[str, str] | None = None
    fixed_range: tuple[float, float] | None = None
    observes: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    # as large as the weights themselves, so not part of a saved analysis
    stored: npt.NDArray[np.float32] | None = field(default=None, metadata={"saved": False})
    replaces_node: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """(node, slot): unique within a plan."""
        return self.node, self.slot


EditKind = Literal["weight_split", "channel_split", "equalization", "smoothing", "bias_correction"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A rewrite of the FP32 graph before it is quantized; what it computes stays as it is.

    (But for a bias correction, which moves FP32 biases to where the quantized ones should be.)

    Attributes:
        layers: that are rewritten, in this order.
        method: of a weight split: "balance".
        threshold: of a weight split: the weights above it are split.
        values: layer or tensor -> one number per channel: factors, shifts, or the numbers of
            channels, as the kind needs.
    """

    kind: EditKind
    layers: tuple[str, ...]
    method: str = ""
    threshold: float | None = None
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """What the user asks a target for; None leaves the choice to the target.

    Attributes:
        observer: range observer of activations.
        precision: of every layer that `table` does not name.
        table: layer -> precision, by the names the target prints (a dispatch table).
        granularity: of weights, "channel" or "tensor".
        ranges: tensor -> smallest and largest value its grid shall cover, instead of what the
            observer finds.
        edits: of the graph, before the target sees it, in this order.
    """

    observer: Observer | None = None
    precision: str | None = None
    table: Mapping[str, str] = field(default_factory=dict)
    granularity: Granularity | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """All quantizers of a model for a target, and the layers they belong to.

    Attributes:
        layers: names of the nodes that the target quantizes, in execution order.
        computing: the subset of `layers` whose op type multiplies and accumulates.
        precision: layer -> "int8", "int16", "fp32" ...
        default_precision: of the layers that the dispatch table did not name.
    """

    target: str
    layers: tuple[str, ...]
    computing: frozenset[str]
    precision: Mapping[str, str]
    quantizers: tuple[Quantizer, ...]
    notes: tuple[str, ...] = ()
    default_precision: str = "int8"


@dataclass(frozen=True, slots=True)
class DataInfo:
    """Which data a result stands on.

    Attributes:
        role: "calibration" or "analysis".
        count: samples used.
        available: samples found.
        origin: the path as given, or `module:function`.
        sha256: digest over the prepared input arrays of the samples used.
        shapes: input name -> shape of one run.
        preprocessing: one line, empty for arrays.
    """

    role: str
    count: int
    available: int
    origin: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    preprocessing: str = ""
    skipped: tuple[str, ...] = ()
    selection: str = ""


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
    """

    name: str
    changes: tuple[str, ...]
    base: str
    predicted: float | None
    measured: float
    verdict: str
    samples: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the numbers stand on: enough to run them again."""

    tool_version: str
    command: str
    model: Mapping[str, Any]  # Any: name, sha256, nodes, parameters, macs, notes
    target: str
    data: tuple[DataInfo, ...]
    seed: int
    config: Mapping[str, Any]  # Any: the resolved configuration, as JSON holds it
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Analysis:
    """The one result of a run; every report and export reads only this."""

    provenance: Provenance
    outputs: tuple[OutputError, ...]
    layers: tuple[LayerError, ...]
    plan: QuantPlan
    findings: tuple[Finding, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    warnings: tuple[str, ...] = ()
    balance: Balance | None = None
    task: tuple[TaskScore, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    @property
    def worst_output(self) -> OutputError:
        """The whole graph output with the highest accumulated NSR (NaN counts as worst)."""
        whole = [output for output in self.outputs if output.slice_of is None]
        return max(whole, key=lambda o: math.inf if math.isnan(o.nsr) else o.nsr)


def sqnr_db(nsr: float) -> float:
    """Signal to quantization noise ratio in dB: -10 log10(nsr); inf for no noise at all."""
    if nsr == 0:
        return math.inf
    if math.isinf(nsr):
        return -math.inf
    return -10 * math.log10(nsr)
