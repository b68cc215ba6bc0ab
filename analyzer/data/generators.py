# SPDX-License-Identifier: Apache-2.0
"""Samples from `module:function`: any Python code that yields dicts {input name: array}.

A stream is counted in a first pass and read again by calling the function anew, so that no more
than a few samples are in memory.  What cannot be started again is written to a temporary folder.
"""

from __future__ import annotations

import importlib
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np

from analyzer.data.arrays import Loaded, Spool, make_block, pick
from analyzer.data.cache import SampleCache
from analyzer.data.fitting import Array, Shape
from analyzer.errors import DataError, nearest, raised_at
from analyzer.records import TensorSpec

# An endless generator must end somewhere; more samples than that change no statistics.
_MOST_SAMPLES: Final = 10_000


@runtime_checkable
class _Reader(Protocol):
    """What onnxruntime calls a CalibrationDataReader."""

    def get_next(self) -> Mapping[str, object] | None: ...


class StreamSource:
    """Samples that Python code yields.

    Args:
        name: `module:function`.
        inputs: with the user's `--shape` filled in.
        limit: read no more runs than that.
        cache: keeps what is passed over on the way to a later sample.

    Raises:
        DataError: if the code cannot be imported or fails, or yields what does not fit the model.
    """

    preprocessing = ""
    skipped: tuple[str, ...] = ()

    def __init__(
        self, name: str, inputs: tuple[TensorSpec, ...], *, limit: int | None, cache: SampleCache
    ) -> None:
        self._name = name
        self._inputs = inputs
        self._cache = cache
        self._lock = threading.Lock()
        self._spool = Spool()
        self._start, self._is_replayable = _factory(name)
        self._is_surveyed = False
        self._checksums: list[int] = []
        self._doubts: list[str] = []
        self._dropped = 0
        self.shapes: Mapping[str, Shape] = {}
        self._cursor: Iterator[dict[str, Array]] | None = None
        self._position = 0
        try:
            self.warnings = tuple(self._survey(limit))
        except BaseException:
            self.close()
            raise
        self._is_surveyed = True

    def __len__(self) -> int:
        return len(self._checksums)

    def read(self, index: int) -> dict[str, Array]:
        """Return run `index`, starting the stream again if it has gone past it."""
        if not self._is_replayable:
            return self._load(index)
        with self._lock:
            kept = self._cache.get(index)  # another thread may have passed it meanwhile
            return kept if kept is not None else self._advance(index)

    def label(self, index: int) -> str:
        """Name the function, and the sample."""
        return f"{self._name} (sample {index})"

    def close(self) -> None:
        """Stop the stream, and remove what was written to disk."""
        self._cursor = None
        self._spool.close()

    def _survey(self, limit: int | None) -> list[str]:
        """Run through the stream once: count, check and, if need be, keep; return warnings."""
        # One more than is used tells whether the stream was cut off; who sets a limit knows.
        most = _MOST_SAMPLES + 1 if limit is None else limit
        for index, sample in enumerate(islice(self._runs(), most)):
            if index == _MOST_SAMPLES and limit is None:
                break
            shapes = {name: array.shape for name, array in sample.items()}
            if index == 0:
                self.shapes = shapes
            elif shapes != self.shapes:
                self._raise_other_shape(index, shapes)
            self._checksums.append(_checksum(sample))
            if not self._is_replayable:
                self._store(index, sample)
            self._cache.put(index, sample)
        if not self._checksums:
            raise DataError(f"{self._name} yields no samples.", "Let it yield at least one.")
        lines = list(self._doubts)
        if self._dropped:
            lines.append(
                f"{self._name}: {self._dropped} rows were dropped, as they do not fill the model's"
                " batch."
            )
        if limit is None and index == _MOST_SAMPLES:
            lines.append(f"{self._name} yields more than {index} samples: the rest is not used.")
        return lines

    def _advance(self, index: int) -> dict[str, Array]:
        if self._cursor is None or index < self._position:
            self._cursor, self._position = self._runs(), 0
        for sample in self._cursor:
            at = self._position
            self._position += 1
            if _checksum(sample) != self._checksums[at]:
                self._cursor = None
                raise DataError(
                    f"{self._name} yields another sample {at} than the first time.",
                    "Fix its random seed inside the function: every pass must give the same data.",
                )
            if at == index:
                return sample
            self._cache.put(at, sample)
        self._cursor = None
        raise DataError(
            f"{self._name} ends after {self._position} samples, but gave {len(self)} the first"
            " time.",
            "Let every call give a fresh iterator, or give the reader a rewind() method.",
        )

    def _runs(self) -> Iterator[dict[str, Array]]:
        """Yield what the user's code yields, checked and cut into single runs."""
        for number, item in enumerate(self._items()):
            label = f"{self._name} (item {number})"
            if not isinstance(item, Mapping):
                raise DataError(
                    f"{self._name} yields {type(item).__name__}, expected dicts"
                    " {input name: array}.",
                    f"Yield {{{self._inputs[0].name!r}: array}}.",
                )
            arrays = {
                str(key): Loaded(label, _to_array(value, label)) for key, value in item.items()
            }
            block, doubts = make_block(label, pick(arrays, self._inputs, label), self._inputs)
            if not self._is_surveyed:
                self._dropped += block.dropped
                if number == 0:
                    self._doubts += doubts.values()
            for position in range(block.count):
                yield block.read(position, self._inputs)

    def _items(self) -> Iterator[object]:
        """Yield items; an exception of the user's code becomes a DataError."""
        done = 0
        try:
            for item in self._start():
                yield item
                done += 1
        except DataError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise DataError(
                f"{self._name} raised {type(error).__name__} after {done} samples: {error}.",
                raised_at(error, ours=__file__, otherwise="It is called without arguments."),
            ) from error

    def _store(self, index: int, sample: Mapping[str, Array]) -> None:
        for number, spec in enumerate(self._inputs):
            np.save(self._spool.path(f"{index}.{number}.npy"), sample[spec.name])

    def _load(self, index: int) -> dict[str, Array]:
        return {
            spec.name: np.load(self._spool.path(f"{index}.{number}.npy"), allow_pickle=False)
            for number, spec in enumerate(self._inputs)
        }

    def _raise_other_shape(self, index: int, shapes: Mapping[str, Shape]) -> None:
        name = next(name for name, shape in shapes.items() if shape != self.shapes[name])
        raise DataError(
            f"{self.label(0)} has shape {self.shapes[name]} for input {name!r}, but"
            f" {self.label(index)} has {shapes[name]}: all samples of a run need one shape.",
            f"Pad them to one shape, and pass it with --shape {name}=DIMS.",
        )


def _factory(name: str) -> tuple[Callable[[], Iterable[object]], bool]:
    """Return what starts a pass over the stream, and whether it may be called again."""
    found = import_named(name)
    if isinstance(found, _Reader) and not isinstance(found, type):
        return _replay(name, lambda: found), hasattr(found, "rewind")
    if callable(found):
        return _replay(name, found), True
    if isinstance(found, Iterable):
        is_one_way = iter(found) is found
        return _replay(name, lambda: found), not is_one_way
    raise DataError(
        f"{name} is {type(found).__name__}, expected a function, an iterable or a reader with"
        " get_next().",
        "Let it yield dicts {input name: array}.",
    )


def _replay(name: str, make: Callable[[], object]) -> Callable[[], Iterable[object]]:
    """Return a function that starts a pass, rewinding a reader that it has met before."""
    seen: list[object] = []

    def start() -> Iterable[object]:
        made = make()
        if isinstance(made, _Reader):
            if seen and seen[0] is made and hasattr(made, "rewind"):
                made.rewind()
            seen[:] = [made]
            return _drain(made)
        if isinstance(made, Mapping) or not isinstance(made, Iterable):
            raise DataError(
                f"{name} returns {type(made).__name__}, expected an iterable of dicts"
                " {input name: array}.",
                "Write it as a generator function (yield instead of return).",
            )
        return made

    return start


def _to_array(value: object, label: str) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises both of the latter
        raise DataError(
            f"{label} holds {type(value).__name__}, which numpy makes no array of: {error}.",
            "Yield numpy arrays.",
        ) from error


def _drain(reader: _Reader) -> Iterator[object]:
    while (item := reader.get_next()) is not None:
        yield item


def import_named(name: str) -> object:
    """Import `module:attribute`, with the working directory on the search path.

    Raises:
        DataError: if it cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        # Left there: the user's code may import its neighbours later, while it runs.
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise DataError(
            f"{module_name!r} of {name} cannot be imported: {type(error).__name__}: {error}.",
            f"Run qanalyze in the folder of {module_name.partition('.')[0]}.py, or correct the"
            " module.",
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [each for each in vars(found) if not each.startswith("_")]
            raise DataError(
                f"{module_name!r} has no {attribute!r}.",
                nearest(part, known) if known else "The module defines nothing.",
            )
        found = getattr(found, part)
    return found


def _checksum(sample: Mapping[str, Array]) -> int:
    value = 0
    for array in sample.values():
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return value
