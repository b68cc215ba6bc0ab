# SPDX-License-Identifier: Apache-2.0
"""What was worked out for objects that are not changed any more: asked for again, it is there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Latest(Generic[Value]):
    """The values of the objects that came last, found by identity.

    Args:
        size: how many are kept, with the objects they belong to.
    """

    def __init__(self, size: int) -> None:
        self._kept: deque[tuple[tuple[object, ...], Value]] = deque(maxlen=size)
        self._lock = threading.Lock()

    def of(self, owners: tuple[object, ...], make: Callable[[], Value]) -> Value:
        """Return what belongs to `owners`, made now if it is not there."""
        with self._lock:
            kept = list(self._kept)
        for known, value in kept:
            if all(a is b for a, b in zip(known, owners, strict=True)):
                return value
        value = make()
        with self._lock:
            self._kept.append((owners, value))
        return value
