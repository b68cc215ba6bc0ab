# SPDX-License-Identifier: Apache-2.0
"""Basic indices: what is kept is what numpy keeps, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.errors import ConfigError
from analyzer.graph.indexing import parse_index


@st.composite
def indexed(draw):
    """Draw a shape, and an index that fits it and leaves something: an entry per axis or fewer."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
    entries = []
    for size in shape[: draw(st.integers(1, len(shape)))]:
        if draw(st.booleans()):
            entries.append(draw(st.integers(-size, size - 1)))
            continue
        bound = st.none() | st.integers(-size, size)
        step = draw(st.none() | st.integers(-3, 3).filter(bool))
        entries.append(
            draw(st.builds(slice, bound, bound, st.just(step)).filter(
                lambda s, size=size: len(range(*s.indices(size))) > 0))
        )  # fmt: skip
    return shape, entries


def text_of(entry):
    if isinstance(entry, int):
        return str(entry)
    pieces = [entry.start, entry.stop] + ([] if entry.step is None else [entry.step])
    return ":".join("" if piece is None else str(piece) for piece in pieces)


@given(indexed())
def test_what_is_kept_is_what_numpy_keeps(case):
    """Whole numbers, ranges and steps of either sign; a whole number keeps its axis."""
    shape, entries = case
    values = np.arange(np.prod(shape)).reshape(shape)
    kept = parse_index(", ".join(map(text_of, entries)), shape)
    for axis, bounds in kept.items():
        values = np.take(values, range(*bounds), axis)
    expected = np.arange(np.prod(shape)).reshape(shape)[tuple(entries)]
    assert np.array_equal(values.ravel(), expected.ravel())
    assert values.ndim == len(shape)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (":, :4", {1: (0, 4, 1)}),
        ("..., 4:", {2: (4, 9, 1)}),
        ("0, ..., -1", {2: (8, 9, 1)}),  # axis 0 has one value, which is all of it
        ("...", {}),
        (":,", {}),
        (" : , +1 : 7 : 2", {1: (1, 7, 2)}),
        (":, :, ::-1", {2: (8, -1, -1)}),
        (":, ..., :, :8", {2: (0, 8, 1)}),
        (":, -3:", {1: (4, 7, 1)}),
    ],
)
def test_texts(text, kept):
    """Spaces, signs, a comma at the end, dots for any number of axes, none included."""
    assert parse_index(text, (1, 7, 9)) == kept


def test_a_scalar_has_no_axis_to_index():
    """But dots stand for no axis as well."""
    assert parse_index("...", ()) == {}
    with pytest.raises(ConfigError, match=r"\[0\] has 1 axes, but the output has 0: a scalar"):
        parse_index("0", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no index"),
        (":, , 1", "'' is no index"),
        ("a", "'a' is no index"),
        ("1.5", "'1.5' is no index"),
        ("None", "'None' is no index"),
        ("::::", "'::::' is no index"),
        ("¹", "'¹' is no index"),
        ("..., ...", "2 times '...'"),
        (":, :, :, :", r"has 4 axes, but the output has 3: 1x7x9"),
        ("1", "'1' reaches beyond axis 0 of 1x7x9"),
        (":, -8", "'-8' reaches beyond axis 1"),
        (":, :84", "':84' reaches beyond axis 1"),
        (":, 4:3", "'4:3' leaves nothing of axis 1"),
        (":, 7:", "'7:' leaves nothing of axis 1"),
        (":, ::0", "'::0' has the step 0"),
        (":, " + "9" * 5000, "is no index"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    """Text that is no basic index, more axes than there are, bounds beyond them, nothing left."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_index(text, (1, 7, 9))
    assert caught.value.remedy
