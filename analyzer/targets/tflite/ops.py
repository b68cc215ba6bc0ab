# SPDX-License-Identifier: Apache-2.0
"""What a TFLite quantizer makes of each ONNX node: a node goes in, its kind comes out.

The kinds are those of both quantizers:

* `free`: every tensor has a scale of its own;
* `fixed`: the kernel prescribes the output's grid (`FIXED`);
* `passing`: the output takes over the input's grid;
* `joining`: the inputs are brought onto the output's grid.

What no table names stays in float.  Sources: traits of `tensorflow/compiler/mlir/lite/ir/
tfl_ops.td` (converter), `default_policy.py` and `algorithms/uniform_quantize/common_quantize.py`
(ai-edge-quantizer 0.10).  ONNX nodes count as the TFLite operators that onnx2tf makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model

Kind = Literal["free", "fixed", "passing", "joining"]
Span = tuple[float, float]

# Smallest and largest value of the grids that kernels prescribe, at 8 bits: of scale 1/256 and
# zero point -128, 1/128 and 0, 16/256 and 127.  At 16 bits all have scale 1/32768.
FIXED: dict[str, Span] = {
    "Softmax": (0.0, 255 / 256),
    "Sigmoid": (0.0, 255 / 256),
    "Tanh": (-1.0, 127 / 128),
    "LpNormalization": (-1.0, 127 / 128),
    "LogSoftmax": (-255 / 16, 0.0),
}
FIXED_16: Span = (-32767 / 32768, 32767 / 32768)

_RELU: Span = (0.0, np.inf)
# the activations that a TFLite operator can carry, and those that are operators of their own
FUSABLE_CLIPS: frozenset[Span] = frozenset({_RELU, (0.0, 6.0), (-1.0, 1.0)})
_CLIPS: frozenset[Span] = FUSABLE_CLIPS | {(0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Operators:
    """The operators that one tool quantizes, as ONNX op types by kind.

    Attributes:
        only_8: those of them that have no kernel with 16-bit activations.
        clips: bounds of the Clip nodes that are `free` operators when they stand alone.
        joins_clips: whether other Clip nodes (a Maximum and a Minimum) are quantized.
        fusing: operators that carry a following activation.
        batch_weights: whether a constant factor of a BATCH_MATMUL is quantized as a weight.
        uneven_splits: whether a Split into parts of several sizes (SPLIT_V) is quantized.
    """

    free: frozenset[str]
    fixed: frozenset[str]
    passing: frozenset[str]
    joining: frozenset[str]
    only_8: frozenset[str]
    clips: frozenset[Span]
    joins_clips: bool
    fusing: frozenset[str]
    batch_weights: bool
    uneven_splits: bool


CONVERTER = Operators(
    free=frozenset(
        """
        Conv ConvTranspose Gemm MatMul Add Sub Mul HardSwish LeakyRelu PRelu Relu Abs Exp Gelu
        GlobalAveragePool ReduceMean ReduceSum ReduceProd ArgMax ArgMin Equal Greater
        GreaterOrEqual Less LessOrEqual
        """.split()
    ),
    fixed=frozenset(FIXED),
    passing=frozenset(
        """
        AveragePool MaxPool GlobalMaxPool ReduceMax ReduceMin Reshape Flatten Squeeze Unsqueeze
        Transpose Slice Split Pad Resize Gather GatherND Expand Tile DepthToSpace SpaceToDepth TopK
        """.split()
    ),
    joining=frozenset(["Concat", "Max", "Min", "Where"]),
    only_8=frozenset(
        """
        HardSwish PRelu Gelu LpNormalization LogSoftmax Tile DepthToSpace SpaceToDepth TopK ArgMax
        ArgMin Equal Greater GreaterOrEqual Less LessOrEqual
        """.split()
    ),
    clips=_CLIPS,
    joins_clips=True,
    fusing=frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div"]),
    batch_weights=False,
    uneven_splits=True,
)

AI_EDGE = Operators(
    free=frozenset(
        """
        Conv ConvTranspose Gemm MatMul Add Sub Mul Div HardSwish Relu Gelu Sqrt GlobalAveragePool
        ReduceMean ReduceSum Equal
        """.split()
    ),
    fixed=frozenset(["Softmax", "Sigmoid", "Tanh"]),
    passing=frozenset(
        """
        AveragePool MaxPool ReduceMin Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Pad
        Resize Gather GatherND Expand SpaceToDepth
        """.split()
    ),
    joining=frozenset(["Concat", "Max", "Where"]),
    only_8=frozenset(["HardSwish", "SpaceToDepth"]),
    clips=frozenset({_RELU}),
    joins_clips=False,
    fusing=CONVERTER.fusing,
    batch_weights=True,
    uneven_splits=False,
)


def kind_of(
    operators: Operators, model: Model, view: GraphView, node: onnx.NodeProto
) -> Kind | None:
    """Return how `node` is quantized; None where it stays in float."""
    op = node.op_type
    if node.domain not in ("", "com.microsoft") or not any(is_float(model, t) for t in node.input):
        return None
    if op == "Clip":
        if clip_bounds(view, node) in operators.clips:
            return "free"
        return "joining" if operators.joins_clips else None
    if op in operators.fixed:
        return "fixed" if op != "LpNormalization" or attribute(node, "p", 2) == 2 else None
    if op == "Split" and not operators.uneven_splits:
        return "passing" if len({model.shapes[t] for t in node.output}) == 1 else None
    if op in operators.passing and _passes(node, model):
        return "joining" if op == "Pad" and _pads_with_value(view, node) else "passing"
    if op in operators.joining:
        alone = sum(is_float(model, t) for t in node.input) == 1
        return "passing" if alone else "joining"
    if op in ("Conv", "ConvTranspose") and len(model.shapes[node.input[0]]) > 4:
        return None  # CONV_3D has float kernels only
    return "free" if op in operators.free else None


def is_activation(view: GraphView, node: onnx.NodeProto) -> bool:
    """Tell whether `node` can be the fused activation of the operator before it."""
    if node.op_type == "Clip":
        return clip_bounds(view, node) in FUSABLE_CLIPS
    return node.op_type == "Relu"


def clip_bounds(view: GraphView, node: onnx.NodeProto) -> Span | None:
    """Return the bounds of a Clip, None where they are no constants."""
    found = [float(attribute(node, "min", -np.inf)), float(attribute(node, "max", np.inf))]
    for index, tensor in enumerate(node.input[1:3]):
        if tensor and not view.is_constant(tensor):
            return None
        if tensor:
            found[index] = float(view.array(tensor).ravel()[0])
    return found[0], found[1]


def attribute(node: onnx.NodeProto, name: str, default: float | bytes) -> float | bytes:
    """Return a number or string among the attributes of `node`."""
    value: float | bytes = attributes(node).get(name, default)
    return value


def _passes(node: onnx.NodeProto, model: Model) -> bool:
    if node.op_type == "Resize":
        return attribute(node, "mode", b"nearest") in (b"nearest", b"linear")
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        return False
    return is_float(model, node.input[0])


def _pads_with_value(view: GraphView, node: onnx.NodeProto) -> bool:
    """Tell whether a Pad writes anything but zeros: a PADV2 then, whose value is an operand."""
    if attribute(node, "mode", b"constant") != b"constant":
        return False
    value = node.input[2] if len(node.input) > 2 else ""
    if not value:
        return attribute(node, "value", 0.0) != 0
    return not view.is_constant(value) or float(view.array(value).ravel()[0]) != 0
