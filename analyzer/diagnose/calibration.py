# SPDX-License-Identifier: Apache-2.0
"""QA114 and QA115: calibration data that do not show what the analysis data, or the model, hold.

QA114 looks at ranges tensor by tensor: values that no calibration sample had lie beyond the grid.
(A range that an observer cut on purpose is another matter: QA103.)  QA115 looks at the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.graph.build import GraphBuilder, emit
from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.tensors import TensorRuns
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer
from analyzer.targets.base import Target

WIDER = 0.1  # of the calibration range: what the analysis data must exceed it by
CLIPPED = 1e-3  # of a tensor's power that must be lost by it
MOST = 5  # tensors that are tried one by one
LOOKED_AT = 32  # tensors whose clipping is measured
_Ends = tuple[float, float]
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Narrow:
    """A quantizer whose grid leaves out what only the analysis data hold."""

    root: Quantizer
    seen: _Ends
    found: _Ends
    outside: float
    clipped: float


def narrow_calibration(case: Case) -> Iterator[Candidate]:
    """Yield all ranges that the analysis data exceed, at once; then the worst one by one."""
    target = case.target
    if target is None:
        return  # a file does not tell what was seen while calibrating
    found = _narrow(case)
    found.sort(key=lambda n: -n.clipped)
    if not found:
        return
    changes = [_rescaled(case, target, n.root, _union(n.found, n.seen)) for n in found]
    worst = found[0]
    evidence = {
        "tensors": len(found),
        "worst": worst.root.tensor,
        "share_outside": worst.outside,
        "range_over_calibration": _width(worst.found) / max(_width(worst.seen), 1e-30),
    }
    yield Candidate("QA114", None, evidence, {k: v for part in changes for k, v in part.items()})
    if len(found) < 2:
        return
    for narrow, part in zip(found[:MOST], changes, strict=False):
        evidence = {
            "tensor": narrow.root.tensor,
            "calibration_low": narrow.seen[0],
            "calibration_high": narrow.seen[1],
            "low": narrow.found[0],
            "high": narrow.found[1],
            "share_outside": narrow.outside,
            "clipped_power": narrow.clipped,
        }
        yield Candidate("QA114", narrow.root.node, evidence, part)


def refitted(case: Case) -> Changes:
    """Return every quantizer with a range of its own as the analysis data ask for it."""
    target, view = case.target, case.view
    if target is None:
        return {}
    roots = _roots(case, view)
    ends = _extremes(case, view, {t for _, tensors in roots for t in tensors})
    changes: Changes = {}
    for root, tensors in roots:
        found = min(ends[t][0] for t in tensors), max(ends[t][1] for t in tensors)
        changes.update(_rescaled(case, target, root, found))
    return changes


def _narrow(case: Case) -> list[_Narrow]:
    view = case.view
    roots = _roots(case, view)
    ends = _extremes(case, view, {t for _, tensors in roots for t in tensors})
    over = []
    for root, tensors in roots:
        assert root.range is not None, root.key
        low, high = (min(ends[t][0] for t in tensors), max(ends[t][1] for t in tensors))
        reach = max(high - root.range[1], root.range[0] - low)
        grid = _grid(root)
        if reach > WIDER * _width(root.range) and (low < grid[0] or high > grid[1]):
            over.append((root, tensors, (low, high), reach))
    over.sort(key=lambda row: -row[3] / max(_width(row[2]), 1e-30))
    losses = _losses(case, [(root, tensors) for root, tensors, _, _ in over[:LOOKED_AT]])
    return [
        _Narrow(root, root.range, found, *losses[root.key])
        for root, _, found, _ in over[:LOOKED_AT]
        if root.range is not None and losses[root.key][1] >= CLIPPED
    ]


def _roots(case: Case, view: GraphView) -> list[tuple[Quantizer, tuple[str, ...]]]:
    """Return the quantizers whose own scale stands on data, and the tensors it was found on."""
    used = {q.follows or q.key for q in case.plan.quantizers if q.active}
    found = []
    for q in case.plan.quantizers:
        own = q.role in ("input", "activation") and q.follows is None and q.range is not None
        tensors = tuple(t for t in q.observes or (q.tensor,) if _float(case, t))
        if own and q.key in used and tensors and not any(map(view.is_constant, tensors)):
            found.append((q, tensors))
    return found


def _float(case: Case, tensor: str) -> bool:
    return case.model.dtypes.get(tensor) == "float32"


def _extremes(case: Case, view: GraphView, tensors: Iterable[str]) -> dict[str, _Ends]:
    """Return the smallest and largest finite value of tensors over the samples.

    They are taken inside the graph, so that no tensor has to be kept.
    """
    builder = GraphBuilder(case.model, view)
    emit(
        builder,
        view.nodes.values(),
        prefix="",
        outside=lambda t: builder.input(t, t),
        slots={},
    )
    names = sorted(tensors)
    wanted = []
    for tensor in names:
        if tensor not in view.producer:
            builder.input(tensor, tensor)
        for op in ("ReduceMin", "ReduceMax"):
            wanted.append(builder.add(op, [tensor], f"{tensor}//{op}", keepdims=0))
            builder.outputs[wanted[-1]] = helper.make_tensor_value_info(
                wanted[-1], TensorProto.FLOAT, []
            )
    if not names:
        return {}
    session = open_session(builder.serialize())
    rows = []
    for sample in case.samples:
        made = run(session, wanted, {t: to_value(sample[t]) for t in builder.inputs})
        rows.append([float(made[name].numpy()) for name in wanted])
    table = np.array(rows)
    with np.errstate(invalid="ignore"):
        table[~np.isfinite(table)] = 0.0  # infinite ends (attention masks) are no range
    low, high = table[:, ::2].min(0), table[:, 1::2].max(0)
    return {t: (float(a), float(b)) for t, a, b in zip(names, low, high, strict=True)}


def _losses(
    case: Case, rows: Sequence[tuple[Quantizer, tuple[str, ...]]]
) -> dict[_Key, tuple[float, float]]:
    """Return, per quantizer, the share of values beyond its grid and of power lost by that."""
    if not rows:
        return {}
    runs = TensorRuns(case.model, [t for _, tensors in rows for t in tensors])
    sums = {root.key: np.zeros(4) for root, _ in rows}
    for sample in case.samples:
        values = runs.run(sample)
        for root, tensors in rows:
            low, high = _grid(root)
            for tensor in tensors:
                x = values[tensor].astype(np.float64).ravel()
                x = x[np.isfinite(x)]
                lost = x - np.clip(x, low, high)
                sums[root.key] += np.array(
                    [np.count_nonzero(lost), x.size, lost @ lost, x @ x], np.float64
                )
    return {
        key: (float(s[0] / max(s[1], 1)), float(s[2] / s[3]) if s[3] else 0.0)
        for key, s in sums.items()
    }


def _grid(quantizer: Quantizer) -> _Ends:
    """Return the real values of the lowest and the highest level."""
    scale, zero = calibrated(quantizer)
    low = (quantizer.qmin - zero) * scale
    high = (quantizer.qmax - zero) * scale
    return float(low.min()), float(high.max())


def _rescaled(case: Case, target: Target, root: Quantizer, ends: _Ends) -> Changes:
    """Return the quantizers that have the scale of `root`, with the one that another range gives.

    A symmetric scale grows as the target's scale grows from one range to the other, so that what
    an observer cut by choice is still cut; others get the scale of the range itself.
    """
    assert root.range is not None, root.key
    scale, zero = _scale(target, root, ends)
    if root.symmetric and _width(root.range) > 0:
        before, _ = _scale(target, root, root.range)
        scale, zero = calibrated(root)[0] * scale / before, calibrated(root)[1]
    keys = {root.key}
    for _ in range(2):  # a follower may itself be followed
        keys |= {q.key for q in case.plan.quantizers if q.follows in keys}
    return {
        q.key: replace(q, scale=scale, zero_point=zero)
        for q in case.plan.quantizers
        if q.active and q.key in keys
    }


def _scale(
    target: Target, quantizer: Quantizer, ends: _Ends
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    lo, hi = (np.array([end]) for end in ends)
    return target.scale(quantizer, lo, hi, "minmax")


def _union(one: _Ends, other: _Ends) -> _Ends:
    return min(one[0], other[0]), max(one[1], other[1])


def _width(ends: _Ends) -> float:
    return ends[1] - ends[0]
