# SPDX-License-Identifier: Apache-2.0
"""The probe stage: the error of every unit alone, at every graph output, by suffix runs.

A unit is a layer, or a source of noise (see `graph/families.py`).  Samples are the outer loop, so
that the plain tensors of one sample are alive at a time; units are the inner one.  Asked for all
samples, every unit sees all.  Else the field is thinned out: every unit sees one sample, loudest
first and only as far as noise is left to explain; those that make up 99 % of the noise, and all
computing layers, see a few; those whose order among the ten worst is open see more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from analyzer.graph.session import release_unused
from analyzer.graph.suffix import PlainRun, SuffixRuns, Unit
from analyzer.quant.intervals import intervals, unsettled
from analyzer.records import Model, Quantizer, QuantPlan, Samples, Source

# Three samples at first, and as many as fit into two seconds of one core by the machine model
# (never by the clock: results must not depend on how busy the machine is).
FIRST_SAMPLES = 3
FIRST_SECONDS = 2.0
MOST_SAMPLES = 16
TOP = 10
SHARE = 0.99  # of the noise that is looked at more than once
_CHUNK = 32  # units between two looks at how much noise can be left


@dataclass(slots=True)
class Isolated:
    """What one unit does to the outputs when it alone is quantized.

    Attributes:
        by_output: graph output -> mean NSR over the samples seen.
        nsr: mean over whole outputs.
        interval: 95 % interval of `nsr`, None with a single sample in all.
        samples: how many were seen; 0: not probed, because its noise is expected to be small.
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


def units_for(
    plan: QuantPlan, rows: Sequence[Unit], sources: Iterable[Source]
) -> tuple[list[Unit], dict[str, str]]:
    """Return what has to be probed for rows and sources, and the unit of every source.

    A source that is all of a layer's quantizers is that row.
    """
    quantizers = {q.key: q for q in plan.quantizers}
    of_row = {frozenset(q.key for q in row.quantizers): row.name for row in rows}
    units, names = list(rows), {}
    for source in sources:
        name = of_row.get(frozenset(source.quantizers))
        if name is None:
            name = f"source {source.name}"
            units.append(Unit(name, tuple(quantizers[key] for key in source.quantizers)))
        names[source.name] = name
    return units, names


def parts_of(units: Iterable[Unit], booked: Iterable[str]) -> dict[str, list[str]]:
    """Return every unit that is not booked, with the booked ones that hold its quantizers."""
    listed, chosen = list(units), set(booked)
    holder = {q.key: unit.name for unit in listed if unit.name in chosen for q in unit.quantizers}
    return {
        unit.name: list(dict.fromkeys(holder[q.key] for q in unit.quantizers if q.key in holder))
        for unit in listed
        if unit.name not in chosen
    }


def probe(
    model: Model,
    units: Sequence[Unit],
    samples: Samples,
    *,
    every_sample: bool,
    order: Sequence[int] | None = None,
    ranked: Iterable[str] | None = None,
    within: Mapping[str, Sequence[str]] | None = None,
    loudness: Mapping[str, float] | None = None,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> dict[str, Isolated]:
    """Measure the isolated error of every unit.

    Args:
        model: the graph that the units' quantizers belong to.
        units: calibrated.
        samples: the analysis data, one run each.
        every_sample: True for exact means over all samples; False to start with few and add more
            for the units that matter.
        order: which samples to look at first; None: as they come.
        ranked: units that always see the first few samples; None: all.
        within: unit that is not added up -> those that are and hold its quantizers; it is probed
            only where these make a hundredth of the noise.  Of all others the heaviest see the
            first few samples, too.
        loudness: unit -> noise it adds at its own place (local NSR); where given, units that are
            not ranked are probed the loudest first, until the rest is not expected to hold a
            hundredth of the noise.
        workers: threads that run units side by side.
        step: told the number of probes finished since the last call.

    Returns:
        unit name -> its error.  Means are over the first so many samples of `order`.
    """
    if not units:
        return {}
    going = _Probing(model, units, samples, order, workers, step, every_sample=every_sample)
    with going:
        if every_sample:
            going.see(going.names, len(samples))
        else:
            first = going.affordable()
            chosen = set(going.names if ranked is None else ranked)
            chosen &= set(going.names)
            if first > FIRST_SAMPLES or loudness is None:
                going.see(going.names, first)
            else:
                parts = within or {}
                booked = [n for n in going.names if n not in parts]
                going.see([n for n in going.names if n in chosen], first)
                going.see_loudest({n: loudness.get(n, 0.0) for n in booked})
                heavy = going.heavy(booked)
                going.see([n for n in booked if n in heavy], first)
                going.see_within(parts, booked)
            going.settle(first)
    return going.summary()


class _Probing:
    """What every unit has shown so far; its methods show it more."""

    def __init__(
        self,
        model: Model,
        units: Sequence[Unit],
        samples: Samples,
        order: Sequence[int] | None,
        workers: int,
        step: Callable[[int], None],
        *,
        every_sample: bool,
    ) -> None:
        hint = len(samples) if every_sample else FIRST_SAMPLES
        self.runs = SuffixRuns(model, units, samples=hint)
        self.whole = [t for t in self.runs.outputs if t not in model.slices]
        self.names = [unit.name for unit in units]
        self.samples = samples
        self.visits = list(order) if order else list(range(len(samples)))
        self.step = step
        self.pool = ThreadPoolExecutor(workers)
        self.seen: dict[str, list[dict[str, float]]] = {name: [] for name in self.names}
        self._made: dict[int, Future[PlainRun]] = {}

    def __enter__(self) -> None:
        self.pool.__enter__()

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def affordable(self) -> int:
        """Return how many samples all units see at first."""
        count = int(FIRST_SECONDS / max(self.runs.seconds, 1e-9))
        return min(max(FIRST_SAMPLES, count), len(self.samples))

    def see(self, names: Sequence[str], count: int) -> None:
        """Let units see the first `count` samples, as far as they have not yet.

        The plain tensors of two samples are alive at a time, the next one's being made while the
        last units of the one before still run; a unit's own sessions go once it is through,
        because those of all units together would hold the weights many times.
        """
        late = {
            position: [n for n in names if len(self.seen[n]) <= position]
            for position in range(count)
        }
        positions = [position for position in late if late[position]]
        if count > 1:
            self._made = {}  # made for other units
        for position, following in zip_longest(positions, positions[1:]):
            plain = self._plain(position, late[position] if count > 1 else None).result()
            self._made = {position: self._made[position]}
            last = position == positions[-1]
            jobs = [self.pool.submit(self._one, n, plain, drop=last) for n in late[position]]
            if following is not None:
                self._plain(following, late[following])
            for name, job in zip(late[position], jobs, strict=True):
                self.seen[name].append(job.result())
                self.step(1)
            del plain, jobs, job
            if count > 1:  # the only sample will be asked for again
                del self._made[position]
                release_unused()

    def _plain(self, position: int, names: Sequence[str] | None) -> Future[PlainRun]:
        """Return the plain tensors of a sample for some units, which may be on their way."""
        if position not in self._made:
            sample = self.samples[self.visits[position]]
            self._made[position] = self.pool.submit(self.runs.plain, sample, names)
        return self._made[position]

    def _one(self, name: str, plain: PlainRun, *, drop: bool) -> dict[str, float]:
        found = self.runs.nsr(name, plain)
        if drop:
            self.runs.drop(name)
        return found

    def see_loudest(self, loudness: Mapping[str, float]) -> None:
        """Let units that saw none see one sample until what is left cannot be much.

        What a unit that was not probed does to the outputs is expected to be at most its local
        noise times the gain that only one in twenty of the probed units exceeds.
        """
        waiting = [n for n in self.names if not self.seen[n] and loudness.get(n, 0.0) > 0]
        waiting.sort(key=lambda name: -loudness[name])
        while waiting:
            self.see(waiting[:_CHUNK], 1)
            waiting = waiting[_CHUNK:]
            means = self.means()
            gains = [means[n] / loudness[n] for n in means if loudness.get(n, 0.0) > 0]
            left = float(np.quantile(gains, 0.95)) * sum(loudness[n] for n in waiting)
            if left <= (1 - SHARE) * sum(means.values()):
                break

    def see_within(self, within: Mapping[str, Sequence[str]], booked: Iterable[str]) -> None:
        """Let units see one sample that are parts of booked ones, if those are loud."""
        means = self.means()
        total = sum(means.get(n, 0.0) for n in booked)
        loud = [
            name
            for name, whole in within.items()
            if sum(means.get(n, 0.0) for n in whole) > (1 - SHARE) * total
        ]
        self.see([n for n in loud if not self.seen[n]], 1)

    def heavy(self, names: Iterable[str]) -> set[str]:
        """Return the fewest of some units that make up 99 % of the noise seen of them."""
        chosen = set(names)
        means = {name: mean for name, mean in self.means().items() if name in chosen}
        enough, total, found = SHARE * sum(means.values()), 0.0, set()
        for name in sorted(means, key=lambda n: -means[n]):
            if total >= enough:
                break
            total += means[name]
            found.add(name)
        return found

    def settle(self, first: int) -> None:
        """Show more samples to units whose place among the worst is open."""
        done = first
        while done < min(MOST_SAMPLES, len(self.samples)):
            rows = {n: [self._mean(r) for r in found] for n, found in self.seen.items() if found}
            open_places = unsettled(rows, top=TOP)
            if not open_places:
                break
            done = min(2 * done, MOST_SAMPLES, len(self.samples))
            self.see([n for n in self.names if n in open_places], done)

    def means(self) -> dict[str, float]:
        """Return the mean NSR of every unit that saw a sample."""
        return {
            name: float(np.mean([self._mean(r) for r in found]))
            for name, found in self.seen.items()
            if found
        }

    def summary(self) -> dict[str, Isolated]:
        rows = {n: [self._mean(r) for r in found] for n, found in self.seen.items() if found}
        bounds = intervals(rows)
        result = {}
        for name, found in self.seen.items():
            if not found:
                result[name] = Isolated()
                continue
            by_output = {t: float(np.mean([r[t] for r in found])) for t in found[0]}
            result[name] = Isolated(by_output, self._mean(by_output), bounds[name], len(found))
        return result

    def _mean(self, by_output: Mapping[str, float]) -> float:
        """Return the mean over whole outputs: slices are parts of them."""
        return float(np.mean([by_output[t] for t in self.whole])) if self.whole else 0.0
