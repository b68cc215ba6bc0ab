# SPDX-License-Identifier: Apache-2.0
"""Integer operators of ONNX and onnxruntime, and the float operator each one stands for."""

from __future__ import annotations

from dataclasses import dataclass

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"


@dataclass(frozen=True, slots=True)
class IntegerOp:
    """Where an integer operator keeps what its float twin reads.

    Attributes:
        twin: op type of the float operator.
        operands: for each, the positions of value, scale and zero point.
        output: positions of the output's scale and zero point.
        plain: positions of inputs that are handed on as they are, before the operands.
        bias: position of an int32 bias, whose scale is the product of the operands'.
        rest: True where triples of value, scale and zero point go on to the last input.
        drop: attributes the twin does not have.
    """

    twin: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    plain: tuple[int, ...] = ()
    bias: int | None = None
    rest: bool = False
    drop: tuple[str, ...] = ()


_ONE = ((0, 1, 2),)
_TWO = ((0, 1, 2), (3, 4, 5))

INTEGER_OPS: dict[str, IntegerOp] = {
    "QLinearConv": IntegerOp("Conv", _TWO, (6, 7), bias=8, drop=("channels_last",)),
    "QLinearMatMul": IntegerOp("MatMul", _TWO, (6, 7)),
    "QGemm": IntegerOp("Gemm", _TWO, (7, 8), bias=6),
    "QLinearAdd": IntegerOp("Add", _TWO, (6, 7)),
    "QLinearMul": IntegerOp("Mul", _TWO, (6, 7)),
    "QLinearSigmoid": IntegerOp("Sigmoid", _ONE, (3, 4)),
    "QLinearLeakyRelu": IntegerOp("LeakyRelu", _ONE, (3, 4)),
    "QLinearSoftmax": IntegerOp("Softmax", _ONE, (3, 4), drop=("opset",)),
    "QLinearAveragePool": IntegerOp("AveragePool", _ONE, (3, 4), drop=("channels_last",)),
    "QLinearGlobalAveragePool": IntegerOp(
        "GlobalAveragePool", _ONE, (3, 4), drop=("channels_last",)
    ),
    "QLinearConcat": IntegerOp("Concat", (), (0, 1), rest=True),
    "QLinearWhere": IntegerOp("Where", ((1, 2, 3), (4, 5, 6)), (7, 8), plain=(0,)),
}

# Operators that hand on values as they are: what they read on a grid, they write on it.
MOVES = frozenset(
    """
    Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Concat Gather GatherElements GatherND
    MaxPool GlobalMaxPool Identity Expand Tile DepthToSpace SpaceToDepth Pad Resize Upsample Max
    Min Where TopK ReduceMax ReduceMin ReverseSequence Dropout
    """.split()
)
# Operators whose result does not depend on the scale of what they read.
INDEX_OPS = frozenset(["ArgMax", "ArgMin", "Shape", "Size"])

# Operators whose scales are found while the model runs, or whose weights only they can unpack.
DYNAMIC = frozenset(
    """
    DynamicQuantizeLinear ConvInteger MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul
    DynamicQuantizeLSTM ConvIntegerToFloat
    """.split()
)
