# SPDX-License-Identifier: Apache-2.0
"""A data set as the other stages see it: numbered samples, and what they stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

import numpy as np

from analyzer.data.cache import SampleCache
from analyzer.data.fitting import Array, Shape
from analyzer.records import DataInfo

CACHE_BYTES = 32 << 20


class Source(Protocol):
    """Where samples come from; `read` may be called by several threads at once."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Input name -> shape of one run."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence each."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that were left out."""

    @property
    def preprocessing(self) -> str:
        """One line, empty for arrays."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> dict[str, Array]:
        """Return fresh, contiguous arrays of the model's types."""

    def label(self, index: int) -> str:
        """Name a sample in messages."""

    def close(self) -> None:
        """Give back temporary files."""


class Dataset:
    """Samples for a model, one per run, read when they are asked for.

    A few samples are kept (32 MB at most), so that passes over few samples decode them once, and
    memory does not grow with their number.  Threads may read at the same time.

    Attributes:
        count: samples that can be read.
        available: samples that were found; more than `count` where the caller set a limit.
        origin: the path as given, or `module:function`.
        shapes: input name -> shape of one run, batch axis included.
        warnings: one sentence each.
        skipped: names of files that were left out.
        preprocessing: one line; empty for arrays, which are used as they are.
    """

    def __init__(
        self,
        source: Source,
        *,
        origin: str,
        role: str,
        limit: int | None = None,
        available: int | None = None,
        warnings: Sequence[str] = (),
        cache: SampleCache | None = None,
    ) -> None:
        self._source = source
        self._cache = SampleCache(CACHE_BYTES) if cache is None else cache
        self._digests: dict[int, bytes] = {}
        self.origin = origin
        self.role = role
        self.available = len(source) if available is None else available
        self.count = len(source) if limit is None else min(limit, len(source))
        self.shapes: Mapping[str, Shape] = MappingProxyType(dict(source.shapes))
        self.warnings = (*warnings, *source.warnings)
        self.skipped = source.skipped
        self.preprocessing = source.preprocessing

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Array]:
        """Return sample `index`: read-only contiguous arrays of the model's types and `shapes`.

        Raises:
            IndexError: outside 0 .. count - 1.
            DataError: if the sample cannot be read any more.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}")
        sample = self._cache.get(index)
        if sample is None:
            sample = self._source.read(index)
            self._cache.put(index, sample)
        if index not in self._digests:
            self._digests[index] = _digest(sample)
        return dict(sample)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[index] for index in range(self.count))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def label(self, index: int) -> str:
        """Name the file, and the sample in it, that sample `index` comes from."""
        return self._source.label(index)

    def fingerprint(self, indices: Sequence[int] | None = None) -> str:
        """Return the hex SHA-256 over the prepared arrays of some samples, in that order.

        It is the digest of the samples' own digests, which are taken when a sample is first read:
        asking for it after a run costs nothing.

        Args:
            indices: None: all samples.
        """
        total = hashlib.sha256()
        for index in range(self.count) if indices is None else indices:
            if index not in self._digests:
                self[index]
            total.update(self._digests[index])
        return total.hexdigest()

    def info(
        self, role: str, selection: str = "", indices: Sequence[int] | None = None
    ) -> DataInfo:
        """Return the record of what was used.

        Args:
            role: "calibration" or "analysis".
            selection: how the samples were chosen, in words.
            indices: the samples that were used, in order; None: all.
        """
        return DataInfo(
            role=role,
            count=self.count if indices is None else len(indices),
            available=self.available,
            origin=self.origin,
            sha256=self.fingerprint(indices),
            shapes=dict(self.shapes),
            preprocessing=self.preprocessing,
            skipped=self.skipped,
            selection=selection,
        )

    def close(self) -> None:
        """Remove temporary files and forget kept samples; the data set cannot be read any more."""
        self._cache.clear()
        self._source.close()


def _digest(sample: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(sample):
        array = sample[name]
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.digest()
