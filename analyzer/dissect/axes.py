# SPDX-License-Identifier: Apache-2.0
"""Which axis of a tensor runs over channels: a node goes in, the axis of its output comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.records import Model

# Op types whose inputs and outputs are (N, C, ...).
_SECOND = frozenset(
    """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool
    GlobalMaxPool GridSample GroupNormalization InstanceNormalization LRN LpPool MaxPool
    MaxRoiPool PRelu RoiAlign SpaceToDepth Upsample
    """.split()
)
# Op types whose inputs and outputs are (..., C).
_LAST = frozenset(
    """
    Attention EmbedLayerNormalization Gemm GRU LayerNormalization LSTM MatMul MultiHeadAttention
    RMSNormalization RNN RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization
    SkipSimplifiedLayerNormalization
    """.split()
)
# Op types that give axes another meaning.
_REARRANGING = frozenset(
    "Einsum Expand Flatten Reshape Shape Squeeze Tile Transpose Unsqueeze".split()
)


def channel_axis(model: Model, view: GraphView, node: onnx.NodeProto) -> int | None:
    """Return the axis that runs over channels of the first float output of `node`.

    The op type says it; else constants that the node reads; else the nearest node before it, and
    then behind it, that knows and hands on the axes.  Where nobody knows, tensors of rank 3 are
    taken as tokens (N, T, C), those of a higher rank as (N, C, ...).

    Args:
        model: bound.
        view: of its graph.
        node: of that graph.

    Returns:
        None for a tensor of rank 0 or 1, and where there is no float output.
    """
    tensor = next((t for t in node.output if t and is_float(model, t)), None)
    rank = len(model.shapes[tensor]) if tensor else 0
    if tensor is None or rank < 2:
        return None
    if rank == 2:
        return 1

    def before(name: str) -> Iterable[str]:
        at = view.nodes[name]
        return () if at.op_type in _REARRANGING else view.parents(at)

    def behind(name: str) -> Iterable[str]:
        return (n for n in view.children(view.nodes[name]) if not _rearranges(view, n))

    for nearest in (before, behind):
        found = _nearest(model, view, node.name, rank, nearest)
        if found is not None:
            return found
    return 2 if rank == 3 else 1


def _rearranges(view: GraphView, name: str) -> bool:
    return view.nodes[name].op_type in _REARRANGING


def _nearest(
    model: Model, view: GraphView, start: str, rank: int, following: Callable[[str], Iterable[str]]
) -> int | None:
    """Ask nodes one after the other, nearest first, while their outputs have `rank` axes."""
    waiting, seen = [start], {start}
    for name in waiting:
        found = _told(model, view, view.nodes[name], rank)
        if found is not None:
            return found
        for other in following(name):
            shape = model.shapes.get(view.nodes[other].output[0])
            if other not in seen and shape is not None and len(shape) == rank:
                seen.add(other)
                waiting.append(other)
    return None


def _told(model: Model, view: GraphView, node: onnx.NodeProto, rank: int) -> int | None:
    """Return what a node alone says about its axes."""
    if node.op_type in _SECOND:
        return 1
    if node.op_type in _LAST:
        return rank - 1
    if node.op_type == "Gather" and view.is_constant(node.input[0]):
        return rank - 1  # a table of embeddings
    if node.op_type not in ("Add", "Mul", "Sub", "Div"):
        return None
    for tensor in filter(view.is_constant, node.input):
        shape = model.shapes.get(tensor, tuple(view.initializers[tensor].dims))
        wide = [k - len(shape) + rank for k, size in enumerate(shape) if size > 1]
        if len(wide) == 1 and wide[0] in (1, rank - 1):
            return wide[0]
    return None
