# SPDX-License-Identifier: Apache-2.0
"""Which operations want quantized inputs, and on which grids: NNCF 3.4 for CPUs.

After `common/hardware/setups/cpu.py`, `openvino/graph/metatypes/groups.py` and
`openvino/quantization/default_quantization.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trait = Literal["quantizable", "agnostic", "concat", "weights_as_output", "float"]

_PER_TENSOR_OR_CHANNEL = "DepthwiseConvolution"
_ONLY_8_BITS = "Interpolate"
ATTENTION = "ScaledDotProductAttention"
QUANTIZABLE = frozenset(
    """
    Convolution GroupConvolution DepthwiseConvolution ConvolutionBackpropData
    GroupConvolutionBackpropData MatMul Add Subtract Multiply Divide Maximum Minimum Less LessEqual
    Greater GreaterEqual Equal NotEqual FloorMod Sqrt Power AvgPool ReduceL2 ReduceMean ReduceSum
    Interpolate MVN GroupNormalization LSTMSequence GRUSequence ScaledDotProductAttention
    """.split()
)
AGNOSTIC = frozenset(
    """
    MaxPool ReduceMax Reshape Squeeze Unsqueeze Split Transpose Tile Broadcast Pad Gather GatherND
    GatherElements ScatterUpdate ScatterNDUpdate ScatterElementsUpdate DepthToSpace SpaceToDepth
    """.split()
)
# Behind a Concat, they ask for one scale on all its inputs.
UNIFYING = frozenset(
    """
    Convolution GroupConvolution ConvolutionBackpropData GroupConvolutionBackpropData MatMul
    ScaledDotProductAttention
    """.split()
)
POST_PROCESSING = frozenset(["TopK", "NonMaxSuppression"])


@dataclass(frozen=True, slots=True, order=False)
class Grid:
    """One way to quantize an activation."""

    bits: int = 8
    symmetric: bool = True
    per_channel: bool = False

    @property
    def preference(self) -> tuple[int, bool, bool]:
        """Smaller is preferred among grids that the branches like equally well."""
        return -self.bits, self.per_channel, not self.symmetric


def trait(kind: str) -> Trait:
    """Return how NNCF treats operations of this kind."""
    if kind in QUANTIZABLE:
        return "quantizable"
    if kind in AGNOSTIC:
        return "agnostic"
    if kind == "Concat":
        return "concat"
    return "weights_as_output" if kind == "Embedding" else "float"


def grids(kind: str, *, symmetric: bool) -> tuple[Grid, ...]:
    """Return the grids that a quantizable operation accepts, the first choice first.

    Args:
        kind: of operation.
        symmetric: what the preset asks of activations; attention is symmetric anyhow.
    """
    symmetric = symmetric or kind == ATTENTION
    granularities = (True, False) if kind == _PER_TENSOR_OR_CHANNEL else (False,)
    bits = (8,) if kind == _ONLY_8_BITS else (8, 16)
    return tuple(Grid(b, symmetric, channel) for b in bits for channel in granularities)


def merged(branches: list[tuple[Grid, ...]]) -> tuple[Grid, ...]:
    """Return the grids that suit all branches, best liked first; empty if there is none."""
    common = [
        grid for grid in dict.fromkeys(sum(branches, ())) if all(grid in b for b in branches)
    ]
    return tuple(
        sorted(common, key=lambda grid: (sum(b.index(grid) for b in branches), grid.preference))
    )
