# SPDX-License-Identifier: Apache-2.0
"""Data that a program has in memory: every form it may have, and what is refused."""

import numpy as np
import pytest

from analyzer.data import open_data
from analyzer.data.live import as_stream, held
from analyzer.errors import DataError
from analyzer.records import TensorSpec

X = (TensorSpec("x", "float32", (None, 2)),)
XY = (*X, TensorSpec("y", "float32", (None, 1)))
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


class Tensor:
    """What torch's tensors are to numpy: an array that has to be detached first."""

    def __init__(self, values):
        self.values = values

    def detach(self):
        return self

    def cpu(self):
        return self.values

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on a Tensor that requires grad.")


class Shuffling:
    """A loader that gives another order in every pass."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        yield from ({"x": row} for row in self.rng.permutation(ROWS))


class Dataset:
    """Pairs (sample, label) by number, as torch has them."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return ROWS[index], np.int64(index)


class Reader:
    """What onnxruntime calls a CalibrationDataReader."""

    def __init__(self):
        self.rows = iter(ROWS)

    def get_next(self):
        return next(({"x": row} for row in self.rows), None)


FORMS = {
    "an array": lambda: ROWS,
    "a dict": lambda: {"x": ROWS},
    "a list of dicts": lambda: [{"x": row} for row in ROWS],
    "a tuple of arrays": lambda: tuple(ROWS),
    "a generator": lambda: ({"x": row} for row in ROWS),
    "tensors with gradients": lambda: [Tensor(row) for row in ROWS],
    "samples with labels": lambda: [(row, np.zeros(1)) for row in ROWS],
    "a data set with labels": Dataset,
    "a function": lambda: lambda: ({"x": row} for row in ROWS),
    "a function that makes a reader": lambda: Reader,
    "a reader": Reader,
}


def rows_of(data, inputs=X):
    with (
        held(as_stream(data, lambda: [i.name for i in inputs]), "calib") as name,
        open_data(name, inputs, role="calibration") as found,
    ):
        return [dict(found[index]) for index in (*range(len(found)), 0)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_samples(form):
    """All of them, in order, and the first one again."""
    found = [sample["x"].tolist() for sample in rows_of(FORMS[form]())]
    assert found == [[[0.0, 1.0]], [[2.0, 3.0]], [[4.0, 5.0]], [[0.0, 1.0]]]


def test_a_loader_that_shuffles_is_run_through_once():
    """What was read first stays what it is."""
    found = [sample["x"].tolist() for sample in rows_of(Shuffling())]
    assert found[3] == found[0]
    assert sorted(map(str, found[:3])) == sorted(str([row]) for row in ROWS.tolist())


def test_arrays_in_a_row_are_the_inputs_in_their_order():
    """Names come from the model."""
    (first, _) = rows_of([(ROWS[0], np.float32([9]))], XY)
    assert {name: array.tolist() for name, array in first.items()} == {
        "x": [[0.0, 1.0]], "y": [[9.0]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "inputs", "message"),
    [
        (7, X, r"The data are int\. Give a path, module:function, an array"),
        ([["a"]], X, "A sample is list, expected an array or a dict"),
        ([(ROWS[0],)], XY, "A sample holds 1 arrays, but the model has 2 inputs: x, y"),
        ([ROWS[0]], XY, "has no array for input 'x'"),
        (lambda: 7, X, "returns int, expected an iterable"),
    ],
)
def test_what_is_no_data_is_refused(data, inputs, message):
    """With what would be."""
    with pytest.raises(DataError, match=message):
        rows_of(data, inputs)


def test_a_name_ends_with_its_block():
    """Two of one name are told apart."""
    with held(1, "calib") as first, held(2, "calib") as second:
        assert (first, second) == ("analyzer.data.live:calib", "analyzer.data.live:calib_")
    with pytest.raises(DataError, match="has no 'calib'"):
        open_data(first, X, role="calibration")
