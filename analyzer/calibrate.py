# SPDX-License-Identifier: Apache-2.0
"""The calibrate stage: a placed plan and samples go in, the same plan with all scales comes out.

Statistics are streamed: a part of the graph is run, its observed tensors are handed to their
observers and dropped before the next part runs.  Memory depends on the model only.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from analyzer.errors import DataError
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.segments import Segment, by_size
from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.quant.observers import Observer, Range
from analyzer.records import Model, Quantizer, QuantPlan, Samples
from analyzer.targets.base import F64, Target

Job = tuple[QuantPlan, Target]
Watch = tuple[tuple[str, ...], str | None, int, bool]  # tensors, observer, bits, symmetric

SEGMENT_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    segment: Segment
    session: ort.InferenceSession
    reads: tuple[str, ...]
    made: tuple[str, ...]
    watched: tuple[str, ...]


def calibrate(
    model: Model,
    plan: QuantPlan,
    target: Target,
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> QuantPlan:
    """Fill in every scale of one plan, see `calibrate_all`."""
    (done,) = calibrate_all(model, [(plan, target)], samples, workers=workers, step=step)
    return done


def calibrate_all(
    model: Model,
    jobs: Sequence[Job],
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> list[QuantPlan]:
    """Fill in every scale of several plans for one graph.

    Args:
        model: the graph that `place` returned.
        jobs: plans whose quantizers are placed, and the target of each, which turns ranges into
            scales.  Those that calibrate on the FP32 graph share its runs.
        samples: all calibration data, one run each; read once per phase.
        workers: threads that run samples side by side.
        step: told the number of runs finished since the last call.

    Returns:
        the plans with scales and zero points.

    Raises:
        DataError: if there is no sample, or a tensor turns NaN or infinite on the data.
    """
    if not len(samples):
        raise DataError("There is no calibration sample.", "Give --calib at least one input.")
    view = GraphView(model.proto.graph)
    known = [{q.key: q for q in _constant_scales(view, *job)} for job in jobs]
    for sweep in _sweeps(jobs):
        watches = {number: _watches(*jobs[number]) for number in sweep}
        together = [pair for found in watches.values() for pair in found.items()]
        first = sweep[0]
        weights = _while_calibrating(view, *jobs[first]) if _needs_weights(jobs[first]) else ()
        optimize = not _unoptimized(jobs[first])
        _observe(model, view, together, weights, samples, workers, step, optimize=optimize)
        for number in sweep:
            ranges = {watch: observer.result() for watch, observer in watches[number].items()}
            _scale_activations(*jobs[number], ranges, known[number])
    for (plan, target), done in zip(jobs, known, strict=True):
        _resolve(plan, view, target, done)
    return [
        replace(plan, quantizers=tuple(done[q.key] for q in plan.quantizers))
        for (plan, _), done in zip(jobs, known, strict=True)
    ]


def calibration_phases(jobs: Sequence[Job]) -> int:
    """Return how often the samples will be read."""
    return sum(
        max((o.phases for n in sweep for o in _watches(*jobs[n]).values()), default=0)
        for sweep in _sweeps(jobs)
    )


def _needs_weights(job: Job) -> bool:
    return job[1].calibrates_with_quantized_weights


def _unoptimized(job: Job) -> bool:
    return job[1].calibrates_unoptimized


def _sweeps(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the numbers of the jobs that can look at the same runs."""
    shared = [n for n, job in enumerate(jobs) if not _needs_weights(job)]
    alone = [[n] for n, job in enumerate(jobs) if _needs_weights(job)]
    alike = ([n for n in shared if _unoptimized(jobs[n]) is kind] for kind in (False, True))
    return [*(sweep for sweep in alike if sweep), *alone]


def _watches(plan: QuantPlan, target: Target) -> dict[Watch, Observer]:
    watches: dict[Watch, Observer] = {}
    for quantizer in _observed(plan):
        watch = _watch(quantizer)
        if watch not in watches:
            watches[watch] = target.make_observer(quantizer)
    return watches


def _scale_activations(
    plan: QuantPlan,
    target: Target,
    ranges: Mapping[Watch, Range],
    done: dict[tuple[str, str], Quantizer],
) -> None:
    for quantizer in plan.quantizers:
        if quantizer.key in done or quantizer.follows:
            continue
        if quantizer.role == "bias":
            if quantizer.observes:
                own = ranges[_watch(quantizer)]
                done[quantizer.key] = replace(quantizer, range=(float(own.lo), float(own.hi)))
            continue
        found = (
            ranges[_watch(quantizer)]
            if not quantizer.fixed_range
            else Range(*quantizer.fixed_range, "minmax", *quantizer.fixed_range)
        )
        done[quantizer.key] = _scaled(target, quantizer, found)


def _constant_scales(view: GraphView, plan: QuantPlan, target: Target) -> Iterator[Quantizer]:
    for quantizer in plan.quantizers:
        if quantizer.role in ("weight", "constant") and quantizer.follows is None:
            yield _constant_scaled(view, target, quantizer)


def _while_calibrating(view: GraphView, plan: QuantPlan, target: Target) -> Iterator[Quantizer]:
    """Yield all quantized constants; those that will follow another scale still have their own."""
    for quantizer in plan.quantizers:
        aligned_later = quantizer.follows is not None and quantizer.observer is not None
        if quantizer.role in ("weight", "constant") and (aligned_later or not quantizer.follows):
            yield _constant_scaled(view, target, quantizer)


def _constant_scaled(view: GraphView, target: Target, quantizer: Quantizer) -> Quantizer:
    array = view.array(quantizer.tensor).astype(np.float32)
    lo, hi = target.constant_range(array, quantizer)
    scale, zero = target.scale(quantizer, lo, hi, quantizer.observer or "minmax")
    return replace(quantizer, scale=scale, zero_point=zero)


def _observed(plan: QuantPlan) -> list[Quantizer]:
    """Return the quantizers that need data: an own scale, which some active quantizer uses."""
    used = {q.follows or q.key for q in plan.quantizers if q.active}
    return [
        q
        for q in plan.quantizers
        if q.key in used
        and (q.role in ("input", "activation") or (q.role == "bias" and q.observes))
        and q.follows is None
        and q.fixed_range is None
    ]


def _watch(quantizer: Quantizer) -> Watch:
    tensors = quantizer.observes or (quantizer.tensor,)
    return tensors, quantizer.observer, quantizer.bits, quantizer.symmetric


def _observe(
    model: Model,
    view: GraphView,
    watches: Sequence[tuple[Watch, Observer]],
    weights: Iterable[Quantizer],
    samples: Samples,
    workers: int,
    step: Callable[[int], None],
    *,
    optimize: bool,
) -> None:
    """Show all samples to the observers, in the network whose `weights` are quantized."""
    by_tensor: dict[str, list[Observer]] = {}
    for (tensors, *_), observer in watches:
        for tensor in tensors:
            if not view.is_constant(tensor):
                by_tensor.setdefault(tensor, []).append(observer)
    parts = _compile(model, view, set(by_tensor), slots_by_node(weights), optimize=optimize)
    turns = _Turns(observer for p in parts for t in p.watched for observer in by_tensor[t])
    last = {t: p for p, part in enumerate(parts) for t in part.reads}

    def one(index: int, phase: int) -> None:
        values = {name: to_value(array) for name, array in samples[index].items()}
        for position, part in enumerate(parts):
            wanted = list(dict.fromkeys([*part.segment.live_out, *part.made]))
            made = run(part.session, wanted, {t: values[t] for t in part.reads})
            for tensor in part.watched:
                array = (made.get(tensor) or values[tensor]).numpy()
                try:
                    for observer in by_tensor[tensor]:
                        turns.update(observer, array, phase, index + phase * len(samples))
                except ValueError as error:
                    raise _not_a_number(tensor, index) from error
            values.update((t, made[t]) for t in part.segment.live_out)
            for tensor in [t for t in values if last.get(t, -1) <= position]:
                del values[tensor]

    phases = max((o.phases for _, o in watches), default=0)
    with ThreadPoolExecutor(workers) as pool:
        for phase in range(phases):
            for (tensors, *_), observer in watches:
                for tensor in filter(view.is_constant, tensors):
                    observer.update(view.array(tensor).astype(np.float32), phase)
            for _ in pool.map(lambda i, p=phase: turns.guard(one, i, p), range(len(samples))):
                step(1)


class _Turns:
    """Shows arrays to observers in the order of the samples, whichever thread is ahead.

    The result of some observers depends on the order (PyTorch's histograms).
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.per_run = Counter(map(id, observers))  # arrays that an observer is shown in one run
        self.shown: Counter[int] = Counter()
        self.moved = threading.Condition()
        self.failed = False

    def update(self, observer: Observer, array: npt.NDArray[Any], phase: int, run: int) -> None:
        """Wait until `observer` has seen all runs before `run`, then show it `array`."""
        key = id(observer)
        with self.moved:
            self.moved.wait_for(lambda: self.failed or self.shown[key] >= run * self.per_run[key])
        if not self.failed:
            observer.update(array, phase)
        with self.moved:
            self.shown[key] += 1
            self.moved.notify_all()

    def guard(self, one: Callable[[int, int], None], index: int, phase: int) -> None:
        """Run a sample; nobody waits for one that failed."""
        try:
            one(index, phase)
        except BaseException:
            with self.moved:
                self.failed = True
                self.moved.notify_all()
            raise


def _compile(
    model: Model,
    view: GraphView,
    observed: set[str],
    slots: Mapping[str, Sequence[Quantizer]],
    *,
    optimize: bool,
) -> list[_Part]:
    parts: list[_Part] = []
    for segment in by_size(model, view, max_bytes=SEGMENT_BYTES):
        builder = GraphBuilder(model, view)
        emit(
            builder,
            segment.nodes,
            prefix="",
            outside=lambda t, b=builder: b.input(t, t),  # type: ignore[misc]
            slots=slots,
        )
        made = [t for n in segment.nodes for t in n.output if t in observed]
        for tensor in dict.fromkeys([*segment.live_out, *made]):
            builder.output(tensor, tensor)
        if not builder.outputs:
            continue
        # a graph input is observed by the first part that reads it
        known = {t for part in parts for t in part.reads}
        given = [
            t for t in builder.inputs if t in observed and t in view.inputs and t not in known
        ]
        session = open_session(builder.serialize(), optimize=optimize)
        parts.append(_Part(segment, session, tuple(builder.inputs), tuple(made), (*given, *made)))
    return parts


def _not_a_number(tensor: str, index: int) -> DataError:
    return DataError(
        f"Tensor {tensor!r} turns NaN on calibration sample {index}.",
        "Check that input for values the network cannot take, or leave it out.",
    )


def _scaled(target: Target, quantizer: Quantizer, found: Range) -> Quantizer:
    lo, hi = found.lo, found.hi
    if not quantizer.symmetric:
        # a threshold on magnitudes must not spend levels on a side where no value lies
        lo = np.maximum(lo, min(found.seen_lo, 0.0))
        hi = np.minimum(hi, max(found.seen_hi, 0.0))
    lo, hi = (np.atleast_1d(np.asarray(end, np.float64)) for end in (lo, hi))
    scale, zero = target.scale(quantizer, lo, hi, found.kind)
    seen = None if quantizer.fixed_range else (found.seen_lo, found.seen_hi)
    return replace(quantizer, scale=scale, zero_point=zero, range=seen)


def _resolve(
    plan: QuantPlan, view: GraphView, target: Target, done: dict[tuple[str, str], Quantizer]
) -> None:
    """Complete `done`: followers take their root's scale, biases that of the accumulator."""
    _follow(plan, done)
    biases = [q for q in plan.quantizers if q.role == "bias" and q.follows is None]
    for quantizer in biases:
        weight, source = _factors(view, done, quantizer)
        if weight.role == "weight":
            # layers that share a weight share its scale: the root's, as widened so far
            root = done[weight.follows or weight.key]
            bias = view.array(quantizer.tensor).astype(np.float64).ravel()
            scale, step = calibrated(root)[0], _own_step(target, source, done.get(quantizer.key))
            done[root.key] = replace(root, scale=target.weight_scale(root, scale, step, bias))
    _follow(plan, done)
    for quantizer in biases:
        weight, source = _factors(view, done, quantizer)
        scale = calibrated(weight)[0] * calibrated(source)[0]
        zero = np.zeros(scale.shape, np.int64)
        done[quantizer.key] = replace(quantizer, scale=scale, zero_point=zero)


def _own_step(target: Target, source: Quantizer, bias: Quantizer | None) -> F64:
    """Return the scale of a layer's input: its own, if the bias observes what has another's."""
    if bias is None or bias.range is None:
        return calibrated(source)[0]
    lo, hi = (np.array([end]) for end in bias.range)
    return target.scale(source, lo, hi, source.observer or "minmax")[0]


def _follow(plan: QuantPlan, done: dict[tuple[str, str], Quantizer]) -> None:
    for quantizer in plan.quantizers:
        if quantizer.follows is not None:
            root = done[quantizer.follows]
            done[quantizer.key] = replace(quantizer, scale=root.scale, zero_point=root.zero_point)


def _factors(
    view: GraphView, done: Mapping[tuple[str, str], Quantizer], bias: Quantizer
) -> tuple[Quantizer, Quantizer]:
    """Return the quantizers of the weight and the input whose product `bias` is added to.

    A bias may stand in an Add of its own, behind a MatMul.
    """
    node = view.nodes[bias.node]
    if node.op_type == "Add":
        node = view.nodes[next(view.producer[t] for t in node.input if t in view.producer)]
    weight, source = (_read_by(view, done, node.name, slot) for slot in (1, 0))
    return weight, source


def _read_by(
    view: GraphView, done: Mapping[tuple[str, str], Quantizer], node: str, slot: int
) -> Quantizer:
    """Return the quantizer of what `node` reads at input `slot`: there, or at its producer."""
    here = done.get((node, f"in{slot}"))
    if here is not None:
        return here
    tensor = view.nodes[node].input[slot]
    producer = view.nodes[view.producer[tensor]]
    return done[producer.name, f"out{list(producer.output).index(tensor)}"]
