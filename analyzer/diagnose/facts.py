# SPDX-License-Identifier: Apache-2.0
"""What FP32 values of a tensor look like: a few samples go in, numbers per channel come out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.graph.tensors import TensorRuns
from analyzer.graph.view import GraphView, reads
from analyzer.records import Model, Sample

F64 = npt.NDArray[np.float64]

SEEN = 1 << 15  # values of a tensor and sample that percentiles are taken of
_FIRST = frozenset(  # op types whose outputs have their channels on axis 1
    """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace Gemm GlobalAveragePool
    GlobalMaxPool InstanceNormalization LRN MaxPool PRelu Resize SpaceToDepth Upsample
    """.split()
)
_LAST = frozenset(
    """
    Attention EmbedLayerNormalization FastGelu Gather LayerNormalization MatMul MultiHeadAttention
    RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization
    SkipSimplifiedLayerNormalization
    """.split()
)


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What was seen of one tensor; values that are not finite count as 0.

    Attributes:
        axis: of its channels.
        low: per channel, the smallest value; float64.
        high: per channel, the largest value.
        counts: values seen of each channel.
        usual: 99.9 % of all values lie within this distance of zero.
        kurtosis: of all values; 3 for a normal distribution, 0 where nothing varies.
        seen: some of the values, float32, spread evenly over the tensor.
        channel: of each of `seen`.
    """

    axis: int
    low: F64
    high: F64
    counts: int
    usual: float
    kurtosis: float
    seen: npt.NDArray[np.float32]
    channel: npt.NDArray[np.int32]

    @property
    def spans(self) -> F64:
        """How far the values of each channel reach from zero."""
        found: F64 = np.maximum(np.abs(self.low), np.abs(self.high))
        return found

    @property
    def reach(self) -> float:
        """How far the values reach from zero."""
        return float(self.spans.max())

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return float(self.low.min()), float(self.high.max())


def look(
    model: Model, view: GraphView, tensors: Iterable[str], samples: Sequence[Sample]
) -> dict[str, Facts]:
    """Run the FP32 model and describe some of its tensors.

    Args:
        model: bound.
        view: of its graph.
        tensors: float, not constant.
        samples: a few; memory grows with `SEEN` values per tensor and sample only.
    """
    axes = {t: _axis(len(model.shapes[t]), t, view) for t in tensors}
    runs = TensorRuns(model, axes)
    parts: dict[str, list[_Part]] = {t: [] for t in axes}
    for sample in samples:
        for tensor, value in runs.run(sample).items():
            parts[tensor].append(_part(np.asarray(value, np.float32), axes[tensor]))
    return {t: _united(axes[t], found) for t, found in parts.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One sample of a tensor.

    Attributes:
        sums: of the first four powers of the values seen, that of the zeroth first.
    """

    low: F64
    high: F64
    counts: int
    sums: F64
    seen: npt.NDArray[np.float32]
    channel: npt.NDArray[np.int32]


def _part(x: npt.NDArray[np.float32], axis: int) -> _Part:
    x = x.reshape(1) if x.ndim == 0 else x
    channels, behind = x.shape[axis], prod(x.shape[axis + 1 :])
    if not x.size:
        zeros = np.zeros(channels)
        return _Part(zeros, zeros, 0, np.zeros(5), np.zeros(0, np.float32), np.zeros(0, np.int32))
    rows = x.reshape(-1, channels, behind)
    low, high = rows.min(axis=(0, 2)), rows.max(axis=(0, 2))
    if not np.isfinite([low, high]).all():
        # masks are often infinite: no range to fit a grid to
        return _part(np.where(np.isfinite(x), x, np.float32(0)), axis)
    stride = _stride(x.size)
    seen = x.ravel()[::stride].copy()
    channel = np.arange(0, x.size, stride) // behind % channels
    return _Part(
        low.astype(np.float64),
        high.astype(np.float64),
        x.size // channels,
        _sums(seen),
        seen,
        channel.astype(np.int32),
    )


def _sums(values: npt.NDArray[np.float32]) -> F64:
    wide = values.astype(np.float64)
    square = wide * wide
    return np.array(
        [wide.size, wide.sum(), square.sum(), (square * wide).sum(), (square * square).sum()]
    )


def _stride(size: int) -> int:
    """Return a step through a tensor that does not keep hitting the same column or channel."""
    step = max(1, size // SEEN)
    while step > 1 and any(step % small == 0 for small in (2, 3, 5, 7)):
        step += 1
    return step


def _united(axis: int, parts: Sequence[_Part]) -> Facts:
    seen = np.concatenate([part.seen for part in parts])
    return Facts(
        axis,
        np.min([part.low for part in parts], axis=0),
        np.max([part.high for part in parts], axis=0),
        sum(part.counts for part in parts),
        float(np.percentile(np.abs(seen), 99.9)) if seen.size else 0.0,
        _kurtosis(np.sum([part.sums for part in parts], axis=0)),
        seen,
        np.concatenate([part.channel for part in parts]),
    )


def _kurtosis(sums: F64) -> float:
    count, first, second, third, fourth = sums
    if not count:
        return 0.0
    mean = first / count
    variance = second / count - mean**2
    if not variance > 1e-12 * second / count:
        return 0.0
    centred = fourth / count - 4 * mean * third / count + 6 * mean**2 * second / count
    return float((centred - 3 * mean**4) / variance**2)


def _axis(rank: int, tensor: str, view: GraphView) -> int:
    """Return the axis of a tensor's channels: that of the layer that made its values."""
    if rank < 2:
        return 0
    name: str | None = tensor
    for _ in range(8):
        node = view.nodes.get(view.producer.get(name or "", ""))
        if node is None:
            break
        if node.op_type in _FIRST:
            return 1
        if node.op_type in _LAST:
            return rank - 1
        name = _before(view, node)
    return 1 if rank == 4 or rank == 2 else rank - 1


def _before(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Return an input whose channels lie as those of the node's output do, if that is known."""
    if node.op_type in ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"):
        return None
    return next((t for t in reads(node) if not view.is_constant(t)), None)
