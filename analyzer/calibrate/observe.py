# SPDX-License-Identifier: Apache-2.0
"""Showing tensors to observers: statistics are streamed, so memory depends on the model only.

A part of the graph is run, its observed tensors are handed to their observers and dropped before
the next part runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from analyzer.errors import DataError
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.segments import Segment, by_size
from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.observers import Observer, Shown, show
from analyzer.records import Model, Quantizer, Samples

Watch = tuple[tuple[str, ...], str | None, int, bool]  # tensors, observer, bits, symmetric

SEGMENT_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    segment: Segment
    session: ort.InferenceSession
    reads: tuple[str, ...]
    made: tuple[str, ...]
    watched: tuple[str, ...]


def show_samples(
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
    """Show all samples to the observers, once per phase.

    Args:
        model: the graph that is run.
        view: of its graph.
        watches: what is to be seen, and by whom.
        weights: quantizers of constants, active while the network is run.
        samples: one run each.
        workers: threads that run samples side by side.
        step: told the number of runs finished since the last call.
        optimize: let onnxruntime fuse nodes, which moves last bits.

    Raises:
        DataError: if a tensor turns NaN or infinite.
    """
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
                looking = [o for o in by_tensor[tensor] if phase < o.phases]
                if not looking:
                    continue
                shown = Shown((made.get(tensor) or values[tensor]).numpy())
                try:
                    for observer in looking:
                        turns.update(observer, shown, phase, index + phase * len(samples))
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

    def update(self, observer: Observer, shown: Shown, phase: int, run: int) -> None:
        """Wait until `observer` has seen all runs before `run`, then show it an array."""
        key = id(observer)
        with self.moved:
            self.moved.wait_for(lambda: self.failed or self.shown[key] >= run * self.per_run[key])
        if not self.failed:
            show(observer, shown, phase)
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
