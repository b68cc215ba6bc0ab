# SPDX-License-Identifier: Apache-2.0
"""The calibrate stage: a placed plan and samples go in, the same plan with all scales comes out.

Here ranges become scales; `observe` finds the ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from analyzer.calibrate.observe import Watch, show_samples
from analyzer.errors import DataError
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.quant.observers import Observer, Range
from analyzer.records import Model, Quantizer, QuantPlan, Samples
from analyzer.targets.base import F64, Target

Job = tuple[QuantPlan, Target]


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
            scales.  Those that calibrate on the same graph share its runs.
        samples: all calibration data, one run each; read once per phase.
        workers: threads that run samples side by side.
        step: told the number of runs finished since the last call.

    Returns:
        the plans with scales and zero points.

    Raises:
        DataError: if there is no sample, or a tensor turns NaN or infinite on the data.
    """
    found = observe_all(model, jobs, samples, workers=workers, step=step)
    view = GraphView(model.proto.graph)
    return [scaled(view, *job, ranges) for job, ranges in zip(jobs, found, strict=True)]


def observe_all(
    model: Model,
    jobs: Sequence[Job],
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> list[dict[Watch, Range]]:
    """Find the ranges that plans ask for, see `calibrate_all`.

    Returns:
        per job: what is watched -> its range.
    """
    if not len(samples):
        raise DataError("There is no calibration sample.", "Give --calib at least one input.")
    view = GraphView(model.proto.graph)
    found: list[dict[Watch, Range]] = [{} for _ in jobs]
    for sweep in _sweeps(view, jobs):
        observers = _observers([jobs[number] for number in sweep])
        first = jobs[sweep[0]]
        weights = _while_calibrating(view, *first) if _needs_weights(first) else ()
        together = [(watch, observer) for (_, watch), observer in observers.items()]
        optimize = not _unoptimized(first)
        show_samples(model, view, together, weights, samples, workers, step, optimize=optimize)
        ranges = {key: observer.result() for key, observer in observers.items()}
        for number in sweep:
            plan, target = jobs[number]
            found[number] = {w: ranges[target.name, w] for w in watched(plan)}
    return found


def scaled(
    view: GraphView,
    plan: QuantPlan,
    target: Target,
    ranges: Mapping[Watch, Range],
    constants: dict[Quantizer, Quantizer] | None = None,
) -> QuantPlan:
    """Return a placed plan with the scales that follow from ranges.

    Args:
        view: the graph that `place` returned.
        plan: placed.
        target: of the plan.
        ranges: of all that is watched.
        constants: quantizers of constants that got their scales before, for the same graph and
            target; those that get them now are added.
    """
    held = {} if constants is None else constants
    for quantizer in _own_constants(plan):
        if quantizer not in held:
            held[quantizer] = _constant_scaled(view, target, quantizer)
    done = {q.key: held[q] for q in _own_constants(plan)}
    _scale_activations(plan, target, ranges, done)
    _resolve(plan, view, target, done)
    return replace(plan, quantizers=tuple(done[q.key] for q in plan.quantizers))


def watched(plan: QuantPlan) -> dict[Watch, Quantizer]:
    """Return what a plan watches, each with a quantizer that asks for it."""
    return {watch_of(q): q for q in reversed(_observed(plan))}


def with_other_observers(plan: QuantPlan, target: Target) -> Iterator[QuantPlan]:
    """Yield a placed plan with each of the target's other observers of activations."""
    own = {q.observer for q in plan.quantizers if q.role in ("input", "activation")}
    for observer in target.observers:
        if own != {observer}:
            yield replace(
                plan,
                quantizers=tuple(
                    replace(q, observer=observer)
                    if q.observer and q.role in ("input", "activation")
                    else q
                    for q in plan.quantizers
                ),
            )


def calibration_phases(model: Model, jobs: Sequence[Job]) -> int:
    """Return how often the samples will be read."""
    return sum(
        max((o.phases for o in _observers([jobs[n] for n in sweep]).values()), default=0)
        for sweep in _sweeps(GraphView(model.proto.graph), jobs)
    )


def _needs_weights(job: Job) -> bool:
    return job[1].calibrates_with_quantized_weights


def _unoptimized(job: Job) -> bool:
    return job[1].calibrates_unoptimized


def _sweeps(view: GraphView, jobs: Sequence[Job]) -> list[list[int]]:
    """Return the numbers of the jobs that can look at the same runs."""
    sweeps: dict[object, list[int]] = {}
    for number, job in enumerate(jobs):
        alike: list[object] = [_unoptimized(job), _needs_weights(job)]
        if _needs_weights(job):
            alike += [(q.key, _grid(q)) for q in _while_calibrating(view, *job)]
        sweeps.setdefault(tuple(alike), []).append(number)
    return list(sweeps.values())


def _grid(quantizer: Quantizer) -> tuple[object, ...]:
    """Return what makes quantizers of one constant round it to the same values."""
    scale, zero = calibrated(quantizer)
    of_levels = quantizer.qmin, quantizer.qmax, quantizer.rounding, quantizer.active
    return (*of_levels, quantizer.axis, scale.tobytes(), zero.tobytes())


def _observers(jobs: Sequence[Job]) -> dict[tuple[str, Watch], Observer]:
    """Return one observer per thing that some of the plans watch: (target, watch) -> it."""
    found: dict[tuple[str, Watch], Observer] = {}
    for plan, target in jobs:
        for watch, quantizer in watched(plan).items():
            if (target.name, watch) not in found:
                found[target.name, watch] = target.make_observer(quantizer)
    return found


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
                own = ranges[watch_of(quantizer)]
                done[quantizer.key] = replace(quantizer, range=(float(own.lo), float(own.hi)))
            continue
        found = (
            ranges[watch_of(quantizer)]
            if not quantizer.fixed_range
            else Range(*quantizer.fixed_range, "minmax", *quantizer.fixed_range)
        )
        done[quantizer.key] = _scaled(target, quantizer, found)


def _own_constants(plan: QuantPlan) -> list[Quantizer]:
    """Return the quantizers of constants with scales of their own."""
    return [q for q in plan.quantizers if q.role in ("weight", "constant") and q.follows is None]


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


def watch_of(quantizer: Quantizer) -> Watch:
    """Return what a quantizer wants to be seen; alike for those that can share an observer."""
    tensors = quantizer.observes or (quantizer.tensor,)
    return tensors, quantizer.observer, quantizer.bits, quantizer.symmetric


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
            root, known = done[quantizer.follows], done.get(quantizer.key)
            if known and known.scale is root.scale and known.zero_point is root.zero_point:
                continue
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
