# SPDX-License-Identifier: Apache-2.0
"""Trials: a list of units goes in, what each does to the outputs comes out, as means over samples.

On an FP32 base a unit says what its quantizers do alone; on a quantized base, what becomes of the
whole when some quantizers are taken out or made otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from analyzer.graph.segments import node_seconds
from analyzer.graph.session import release_unused
from analyzer.graph.suffix import PlainRun, SuffixRuns, Unit
from analyzer.records import Model, Quantizer, Sample

Nsr = dict[str, float]

# As many samples as fit into so many seconds of one core, by the machine model and never by the
# clock, when a sample costs about so many runs of the whole model.
FEWEST_SAMPLES = 2
MOST_SAMPLES = 16
_SECONDS = 2.0
_RUNS = 50


@dataclass(frozen=True, slots=True)
class Trials:
    """Mean NSR per float graph output.

    Attributes:
        base: of the base run; all zero for FP32.
        units: unit name -> with that unit treated otherwise.
        base_by_sample, by_sample: what these are means of, in the order of the samples; a unit
            that was given up has fewer.
    """

    base: Nsr
    units: dict[str, Nsr]
    base_by_sample: list[Nsr]
    by_sample: dict[str, list[Nsr]]


def affordable(model: Model) -> int:
    """Return how many samples trials of a model of this size are run on."""
    seconds = _RUNS * sum(node_seconds(model, node) for node in model.proto.graph.node)
    return min(max(FEWEST_SAMPLES, int(_SECONDS / max(seconds, 1e-9))), MOST_SAMPLES)


def run_trials(
    model: Model,
    units: Sequence[Unit],
    samples: Sequence[Sample],
    *,
    base: Iterable[Quantizer] = (),
    promising: Callable[[Sequence[Nsr], Sequence[Nsr]], bool] | None = None,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> Trials:
    """Run every unit on every sample.

    Args:
        model: bound; the graph that the quantizers belong to.
        units: named differently, their quantizers calibrated.
        samples: one run each, at least one.
        base: quantizers that are on where a unit does not say otherwise; none: FP32.
        promising: asked once half of the samples are through, with the base's and a unit's NSRs
            on these, whether the unit shall see the others; None: all do.
        workers: threads that run units side by side.
        step: told the number of runs finished since the last call.
    """
    runs = SuffixRuns(model, units, samples=len(samples), base=base)
    found: dict[str, list[Nsr]] = {unit.name: [] for unit in units}
    bases: list[Nsr] = []
    names, half = list(found), (len(samples) + 1) // 2
    with ThreadPoolExecutor(workers) as pool:
        # one sample ahead, so that workers do not wait for the base run
        coming = [pool.submit(runs.plain, sample) for sample in samples[:2]]
        for position in range(len(samples)):
            if promising and position == half:
                names = [name for name in names if promising(bases, found[name])]
            plain = coming.pop(0).result()
            bases.append(dict(plain.nsr))
            last = position == len(samples) - 1
            jobs = [pool.submit(_one, runs, name, plain, drop=last) for name in names]
            if not coming and not last:
                coming.append(pool.submit(runs.plain, samples[position + 1]))
            for name, job in zip(names, jobs, strict=True):
                found[name].append(job.result())
                step(1)
            del plain, jobs
            release_unused()
    means = {name: mean_nsr(rows) for name, rows in found.items()}
    return Trials(mean_nsr(bases), means, bases, found)


class TrialRuns:
    """Trials that are asked for one after the other, each run when it is first asked for.

    The plain tensors of all samples are held meanwhile: for a few samples, and units of which
    some may never be asked for.

    Args:
        model: bound; the graph that the quantizers belong to.
        units: all that may be asked for, named differently, their quantizers calibrated.
        samples: one run each, at least one.
        base: quantizers that are on where a unit does not say otherwise; none: FP32.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.
    """

    def __init__(
        self,
        model: Model,
        units: Sequence[Unit],
        samples: Sequence[Sample],
        *,
        base: Iterable[Quantizer] = (),
        workers: int = 1,
        step: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._runs = SuffixRuns(model, units, samples=len(samples), base=base)
        self._workers = workers
        self._step = step
        self._found: dict[str, Nsr] = {}
        with ThreadPoolExecutor(workers) as pool:
            self._plains = list(pool.map(self._runs.plain, samples))
        self.base = mean_nsr([dict(plain.nsr) for plain in self._plains])

    def means(self, names: Iterable[str]) -> dict[str, Nsr]:
        """Return unit -> mean NSR per float graph output."""
        wanted = list(dict.fromkeys(names))
        late = [name for name in wanted if name not in self._found]
        jobs = [(name, plain) for name in late for plain in self._plains]
        rows: dict[str, list[Nsr]] = {name: [] for name in late}
        with ThreadPoolExecutor(self._workers) as pool:
            found = pool.map(lambda job: self._runs.nsr(*job), jobs)
            for (name, _), row in zip(jobs, found, strict=True):
                rows[name].append(row)
                if len(rows[name]) == len(self._plains):
                    self._runs.drop(name)
                self._step(1)
        self._found.update((name, mean_nsr(found)) for name, found in rows.items())
        release_unused()
        return {name: self._found[name] for name in wanted}


def _one(runs: SuffixRuns, name: str, plain: PlainRun, *, drop: bool) -> Nsr:
    found = runs.nsr(name, plain)
    if drop:
        runs.drop(name)
    return found


def mean_nsr(rows: Sequence[Nsr]) -> Nsr:
    """Return the mean over samples per output."""
    return {t: float(np.mean([row[t] for row in rows])) for t in rows[0]}
