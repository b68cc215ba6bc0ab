# SPDX-License-Identifier: Apache-2.0
"""Data out of a running program: arrays, lists and loaders in, what `open_data` takes out.

The rest of the program knows data by a text.  What is held here has one of the usual form,
`module:function`, for as long as a `with` block lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

from analyzer.errors import DataError

_EXPECTED = (
    "Give a path, module:function, an array, a dict {input name: array}, a list or an iterator of"
    " those, or a reader with get_next()."
)
_held: dict[str, object] = {}
_lock = Lock()


def __getattr__(name: str) -> object:
    """Return what is held under a name: the way of `module:function` to it."""
    if name in _held:
        return _held[name]
    raise AttributeError(name)


@contextmanager
def held(thing: object, name: str) -> Iterator[str]:
    """Give an object a name of the form `module:function` until the block ends.

    Args:
        thing: data as `as_stream` returns them, or a function.
        name: for messages, an identifier; it gets underscores where it is held already.
    """
    with _lock:  # notebooks may run two analyses at once
        while name in _held:
            name += "_"
        _held[name] = thing
    try:
        yield f"{__name__}:{name}"
    finally:
        del _held[name]


def as_stream(data: object, inputs: Callable[[], Sequence[str]]) -> object:
    """Return data in the form that `module:function` may have.

    Only lists and tuples are read again and again.  Everything else is run through once, and kept
    on disk: a loader that shuffles gives other samples in every pass.

    Args:
        data: an array with samples for a lone input; a dict {input name: array}; a list, tuple or
            iterable of those, or of sequences with an array per input, in their order (what
            follows, such as the labels of a loader, is left out); an object with `get_next()`; a
            function that returns one of these.  torch tensors are arrays, too.
        inputs: returns the names of the model's inputs.

    Raises:
        DataError: if it is nothing of that.
    """
    if _is_array(data) or isinstance(data, Mapping):
        return _Again([data], inputs)
    if isinstance(data, list | tuple):
        return _Again(data, inputs)
    if hasattr(data, "get_next") and not isinstance(data, type):
        return data
    if isinstance(data, Iterable):
        return (_sample(item, inputs) for item in data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return (_sample(data[index], inputs) for index in range(len(data)))
    if callable(data):
        return lambda: _made(data(), inputs)
    raise DataError(f"The data are {type(data).__name__}.", _EXPECTED)


class _Again:
    """Samples that every pass yields anew."""

    def __init__(self, items: Sequence[object], inputs: Callable[[], Sequence[str]]) -> None:
        self._items = items
        self._inputs = inputs

    def __iter__(self) -> Iterator[object]:
        return (_sample(item, self._inputs) for item in self._items)


def _made(found: object, inputs: Callable[[], Sequence[str]]) -> object:
    """Return what a function returned, its samples named."""
    if hasattr(found, "get_next") or isinstance(found, Mapping) or not isinstance(found, Iterable):
        return found  # a reader, or what is refused as it is
    return (_sample(item, inputs) for item in found)


def _sample(item: object, inputs: Callable[[], Sequence[str]]) -> object:
    """Return one item as {input name: array}."""
    if isinstance(item, Mapping):
        return {name: _detached(value) for name, value in item.items()}
    if _is_array(item):
        return {"array": _detached(item)}  # a lone array serves a lone input
    if isinstance(item, list | tuple) and item and all(map(_is_array, item)):
        names = inputs()
        if len(item) < len(names):
            raise DataError(
                f"A sample holds {len(item)} arrays, but the model has {len(names)} inputs: "
                f"{', '.join(names)}.",
                "Give one array per input, or dicts {input name: array}.",
            )
        return dict(zip(names, map(_detached, item), strict=False))
    raise DataError(
        f"A sample is {type(item).__name__}, expected an array or a dict {{input name: array}}.",
        _EXPECTED,
    )


def _is_array(value: object) -> bool:
    return hasattr(value, "__array__")


def _detached(value: Any) -> Any:  # Any: torch is not imported
    """Return a tensor of torch where numpy can read it, anything else as it is."""
    return value.detach().cpu() if hasattr(value, "detach") else value
