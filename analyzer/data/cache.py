# SPDX-License-Identifier: Apache-2.0
"""The last few samples that were read, within a fixed number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from analyzer.data.fitting import Array


class SampleCache:
    """Least recently used samples are dropped first; several threads may use it at once.

    Args:
        limit_bytes: of all arrays together; a sample larger than that is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._samples: OrderedDict[int, dict[str, Array]] = OrderedDict()
        self._bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of all arrays kept."""
        return self._bytes

    def get(self, index: int) -> dict[str, Array] | None:
        """Return a sample that is still there; its arrays are read-only."""
        with self._lock:
            sample = self._samples.get(index)
            if sample is not None:
                self._samples.move_to_end(index)
            return sample

    def put(self, index: int, sample: dict[str, Array]) -> None:
        """Keep a sample; its arrays become read-only, as they are handed out again."""
        for array in sample.values():
            array.flags.writeable = False
        size = _size(sample)
        with self._lock:
            if index in self._samples or size > self._limit:
                return
            self._samples[index] = sample
            self._bytes += size
            while self._bytes > self._limit:
                self._bytes -= _size(self._samples.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._samples.clear()
            self._bytes = 0


def _size(sample: dict[str, Array]) -> int:
    return sum(array.nbytes for array in sample.values())
