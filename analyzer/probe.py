# SPDX-License-Identifier: Apache-2.0
"""The probe stage: the error of every layer alone, at every graph output, by suffix runs.

Samples are the outer loop, so that the plain tensors of one sample are alive at a time; layers
are the inner one.  Asked for all samples, every layer sees all; else all layers see a few, and
those whose order among the worst is open see more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from analyzer.graph.session import release_unused
from analyzer.graph.suffix import SuffixRuns, Unit
from analyzer.quant.intervals import intervals, unsettled
from analyzer.records import Model, Quantizer, QuantPlan, Samples

# All layers see at least three samples, and as many as fit into two seconds of one core by the
# machine model (never by the clock: results must not depend on how busy the machine is).
FIRST_SAMPLES = 3
FIRST_SECONDS = 2.0
MOST_SAMPLES = 16
TOP = 10


@dataclass(slots=True)
class Isolated:
    """What one layer does to the outputs when it alone is quantized.

    Attributes:
        by_output: graph output -> mean NSR over the samples seen.
        nsr: mean over outputs.
        interval: 95 % interval of `nsr`, None with a single sample.
        samples: how many were seen.
    """

    by_output: dict[str, float] = field(default_factory=dict)
    nsr: float = 0.0
    interval: tuple[float, float] | None = None
    samples: int = 0


def units_of(plan: QuantPlan, layers: Iterable[str]) -> list[Unit]:
    """Return one unit per layer of `layers` that carries an active quantizer."""
    slots: dict[str, list[Quantizer]] = {}
    for quantizer in plan.quantizers:
        if quantizer.active:
            slots.setdefault(quantizer.node, []).append(quantizer)
    return [Unit(name, tuple(slots[name])) for name in layers if name in slots]


def probe(
    model: Model,
    units: Sequence[Unit],
    samples: Samples,
    *,
    every_sample: bool,
    order: Sequence[int] | None = None,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> dict[str, Isolated]:
    """Measure the isolated error of every unit.

    Args:
        model: the graph that the units' quantizers belong to.
        units: calibrated.
        samples: the analysis data, one run each.
        every_sample: True for exact means over all samples; False to start with few (three, if
            the model is large) and add more only for layers whose order among the ten worst is
            open.
        order: which samples to look at first; None: as they come.
        workers: threads that run units side by side.
        step: told the number of probes finished since the last call.

    Returns:
        unit name -> its error.
    """
    if not units:
        return {}
    runs = SuffixRuns(model, units, samples=len(samples) if every_sample else FIRST_SAMPLES)
    first = len(samples) if every_sample else _first_samples(runs, len(samples))
    seen: dict[str, list[dict[str, float]]] = {unit.name: [] for unit in units}
    visits = list(order) if order else list(range(len(samples)))
    with ThreadPoolExecutor(workers) as pool:
        _probe_all(runs, pool, list(seen), samples, visits[:first], seen, step)
        done = first
        while not every_sample and done < min(MOST_SAMPLES, len(samples)):
            rows = {name: [_mean(r) for r in found] for name, found in seen.items()}
            names = sorted(unsettled(rows, top=TOP), key=list(seen).index)
            if not names:
                break
            more = min(2 * done, MOST_SAMPLES, len(samples))
            # a layer that was settled before catches up: means are over the first n samples
            for index in range(first, more):
                late = [n for n in names if len(seen[n]) == index]
                if late:
                    _probe_all(runs, pool, late, samples, [visits[index]], seen, step)
            done = more
    return _summary(seen)


def _first_samples(runs: SuffixRuns, available: int) -> int:
    affordable = int(FIRST_SECONDS / max(runs.seconds, 1e-9))
    return min(max(FIRST_SAMPLES, affordable), available)


def _probe_all(
    runs: SuffixRuns,
    pool: ThreadPoolExecutor,
    names: Sequence[str],
    samples: Samples,
    indices: Sequence[int],
    seen: dict[str, list[dict[str, float]]],
    step: Callable[[int], None],
) -> None:
    """Probe `names` on the samples `indices`, the plain tensors of one sample alive at a time."""
    for index in indices:
        plain = runs.plain(samples[index])
        jobs = [(name, pool.submit(runs.nsr, name, plain)) for name in names]
        for name, job in jobs:
            seen[name].append(job.result())
            step(1)
        del plain, jobs, job
        release_unused()


def _mean(by_output: Mapping[str, float]) -> float:
    return float(np.mean(list(by_output.values()))) if by_output else 0.0


def _summary(seen: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Isolated]:
    bounds = intervals({name: [_mean(r) for r in found] for name, found in seen.items()})
    result = {}
    for name, found in seen.items():
        by_output = {t: float(np.mean([r[t] for r in found])) for t in found[0]}
        result[name] = Isolated(by_output, _mean(by_output), bounds[name], len(found))
    return result
