# SPDX-License-Identifier: Apache-2.0
"""What one call of `quantize_static` was told: number types, op types, exclusions, overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx

# Keys of QLinearOpsRegistry and QDQRegistry (`registry.py`): what is quantized where nothing else
# is asked for.
QUANTIZED = frozenset(
    """
    ArgMax Conv Gemm MatMul Add Mul Relu Clip LeakyRelu Sigmoid MaxPool GlobalAveragePool Split
    Pad Reshape Squeeze Unsqueeze Flatten Resize AveragePool Concat Softmax Where Gather
    Transpose EmbedLayerNormalization ConvTranspose Slice GatherElements InstanceNormalization
    LayerNormalization BatchNormalization TopK CumSum
    """.split()
)


class Grid(NamedTuple):
    """An integer type."""

    bits: int
    signed: bool

    def levels(self, *, symmetric: bool) -> tuple[int, int]:
        """Return the levels that a range is spread over (`get_qmin_qmax_for_qType`)."""
        if not self.signed:
            return 0, 2**self.bits - 1
        half = 2 ** (self.bits - 1)
        return (-half + 1 if symmetric else -half), half - 1


S8, U8, S16, U16 = Grid(8, True), Grid(8, False), Grid(16, True), Grid(16, False)


class Scheme(NamedTuple):
    """The types of one precision."""

    activation: Grid
    weight: Grid


@dataclass(frozen=True, slots=True)
class Override:
    """One entry of `TensorQuantOverrides`.

    Attributes:
        grid: type of the tensor, None for what its kind has anyway.
        fixed_range: what a given scale and zero point cover.
        convert: type that `receivers` read, behind a second Q/DQ pair.
        receivers: names of the nodes that read the converted type.
    """

    grid: Grid | None = None
    fixed_range: tuple[float, float] | None = None
    convert: Grid | None = None
    receivers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The arguments of one call.

    Attributes:
        types: of activations and weights.
        per_channel: of weights.
        op_types: what is quantized; None: everything but Cast.
        excluded: names of nodes that are not (`nodes_to_exclude`).
        overrides: by tensor.
        opset: of the model that is quantized, after a conversion.
    """

    types: Scheme
    per_channel: bool
    opset: int
    op_types: frozenset[str] | None = QUANTIZED
    excluded: frozenset[str] = frozenset()
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def quantizes(self, node: onnx.NodeProto) -> bool:
        """Tell whether `node` is looked at (`should_quantize_node`; domains do not matter)."""
        if node.name in self.excluded:
            return False
        return node.op_type != "Cast" if self.op_types is None else node.op_type in self.op_types


def opset_after_update(opset: int, *, wide: bool) -> int:
    """Return the opset that the model is converted to first (`update_opset_version`).

    Args:
        opset: of the model.
        wide: whether any type has 16 bits.
    """
    if wide:
        return max(opset, 21)
    return 11 if opset < 10 else opset
