# SPDX-License-Identifier: Apache-2.0
"""Samples that Python code yields: every form it may have, replayed, and what goes wrong."""

import itertools
import sys
import threading

import numpy as np
import pytest

from analyzer.data import generators, open_data
from analyzer.errors import DataError
from analyzer.records import TensorSpec

NUMBER = itertools.count()
X = (TensorSpec("x", "float32", (None, 2)),)
HEAD = "import numpy as np\nCALLS = []\ndef sample(i): return {'x': np.full((1, 2), i, 'f4')}\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module into the working directory and names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = []

    def write(code):
        name = f"calib_{next(NUMBER)}"
        (tmp_path / f"{name}.py").write_text(HEAD + code)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def opened(spec, inputs=X, **options):
    return open_data(spec, inputs, role="calibration", **options)


def refusal(spec, inputs=X):
    with pytest.raises(DataError) as caught:
        opened(spec, inputs)
    return str(caught.value)


FORMS = {
    "generator": "def make():\n    for i in range(4): yield sample(i)",
    "list": "def make(): return [sample(i) for i in range(4)]",
    "constant": "make = [sample(i) for i in range(4)]",
    "one-way": "make = (sample(i) for i in range(4))",
    "reader class": (
        "class make:\n    def __init__(self): self.i = -1\n"
        "    def get_next(self):\n        self.i += 1\n"
        "        return sample(self.i) if self.i < 4 else None"
    ),
    "bare reader": (
        "class Reader:\n    i = -1\n    def get_next(self):\n        self.i += 1\n"
        "        return sample(self.i) if self.i < 4 else None\nmake = Reader()"
    ),
    "rewindable": (
        "class Reader:\n    i = -1\n    def rewind(self): self.i = -1\n"
        "    def get_next(self):\n        self.i += 1\n"
        "        return sample(self.i) if self.i < 4 else None\nmake = Reader()"
    ),
    "the same rewindable": (
        "class Reader:\n    i = -1\n    def rewind(self): self.i = -1\n"
        "    def get_next(self):\n        self.i += 1\n"
        "        return sample(self.i) if self.i < 4 else None\n"
        "reader = Reader()\ndef make(): return reader"
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [True, False], ids=["cached", "replayed"])
def test_samples_can_be_read_in_any_order(module, monkeypatch, form, kept):
    """Whatever the code is, samples are found by number, with and without a cache."""
    monkeypatch.setattr("analyzer.data.sources.CACHE_BYTES", 64 if kept else 0)
    with opened(f"{module(FORMS[form])}:make") as data:
        assert len(data) == 4
        assert data.shapes == {"x": (1, 2)}
        for index in (3, 0, 1, 1, 2, 0):
            assert data[index]["x"].tolist() == [[index, index]]
        assert [sample["x"][0, 0] for sample in data] == [0, 1, 2, 3]


def test_each_pass_calls_the_function_anew(module, monkeypatch):
    """One call to count, one for two samples in order, one more to go back."""
    monkeypatch.setattr("analyzer.data.sources.CACHE_BYTES", 0)
    name = module("def make():\n    CALLS.append(1)\n    for i in range(4): yield sample(i)")
    data = opened(f"{name}:make")
    calls = sys.modules[name].CALLS
    assert len(calls) == 1
    assert [data[1]["x"][0, 0], data[2]["x"][0, 0], len(calls)] == [1, 2, 2]
    assert [data[0]["x"][0, 0], len(calls)] == [0, 3]


def test_only_one_way_streams_are_written_to_disk(module, tmp_path, monkeypatch):
    """A bare reader is spilled to a temporary folder, which close removes."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    for form, files in (("generator", 0), ("rewindable", 0), ("bare reader", 4), ("one-way", 4)):
        data = opened(f"{module(FORMS[form])}:make")
        assert len(list(scratch.rglob("*.npy"))) == files
        data.close()
        assert list(scratch.iterdir()) == []


def test_batches_are_cut_into_runs(module):
    """A yielded batch of three rows is three samples of a model with a free batch."""
    name = module("def make():\n    yield {'x': np.arange(6, dtype='f4').reshape(3, 2)}")
    assert [sample["x"].tolist() for sample in opened(f"{name}:make")] == [
        [[0, 1]],
        [[2, 3]],
        [[4, 5]],
    ]


def test_lists_and_doubles_are_converted(module):
    """What numpy can make an array of is accepted, keys that are no inputs are not needed."""
    name = module("def make():\n    yield {'x': [[0.5, 1.5]], 'label': 3}")
    found = opened(f"{name}:make")[0]["x"]
    assert (found.dtype, found.tolist()) == (np.float32, [[0.5, 1.5]])


def test_limit_ends_an_endless_stream(module):
    """A generator without end is read as far as is asked for, and not one sample further."""
    name = module(
        "def make():\n    i = 0\n    while True:\n        CALLS.append(i)\n"
        "        yield sample(i)\n        i += 1"
    )
    assert len(opened(f"{name}:make", limit=3)) == 3
    assert sys.modules[name].CALLS == [0, 1, 2]


def test_an_endless_stream_is_cut_off_with_a_warning(module, monkeypatch):
    """Without a limit there is one all the same."""
    monkeypatch.setattr(generators, "_MOST_SAMPLES", 5)
    name = module("import itertools\ndef make():\n    for i in itertools.count(): yield sample(i)")
    data = opened(f"{name}:make")
    assert len(data) == 5
    assert data.warnings == (f"{name}:make yields more than 5 samples: the rest is not used.",)


def test_threads_may_read_at_once(module):
    """Two threads that take samples in turn get the right ones."""
    data = opened(
        f"{module('def make():' + chr(10) + ' for i in range(40): yield sample(i)')}:make"
    )
    wrong = []

    def work(first):
        wrong.extend(i for i in range(first, 40, 2) if data[i]["x"][0, 0] != i)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_random_data_is_refused_when_it_changes(module, monkeypatch):
    """Two passes that differ would compare the network with another input."""
    monkeypatch.setattr("analyzer.data.sources.CACHE_BYTES", 0)
    name = module("def make():\n    CALLS.append(1)\n    yield sample(len(CALLS))")
    data = opened(f"{name}:make")
    with pytest.raises(DataError) as caught:
        data[0]
    assert str(caught.value) == (
        f"{name}:make yields another sample 0 than the first time."
        " Fix its random seed inside the function: every pass must give the same data."
    )


def test_a_stream_that_is_used_up_is_refused(module, monkeypatch):
    """A function that hands out the same exhausted iterator cannot be replayed."""
    monkeypatch.setattr("analyzer.data.sources.CACHE_BYTES", 0)
    name = module("once = iter([sample(0)])\ndef make(): return once")
    data = opened(f"{name}:make")
    with pytest.raises(DataError, match=r"ends after 0 samples, but gave 1 the first time\. Let"):
        data[0]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def mak(): pass", "'{0}' has no 'make'. Did you mean 'mak'?"),
        ("def make(): return 3", "{0}:make returns int, expected an iterable of dicts"),
        ("def make(): return sample(0)", "{0}:make returns dict, expected an iterable"),
        ("make = 3", "{0}:make is int, expected a function, an iterable or a reader"),
        ("def make(): yield 3", "{0}:make yields int, expected dicts"),
        ("def make(): return []", "{0}:make yields no samples. Let it yield at least one."),
        ("def make(): yield {'y': 1, 'z': 2}", "{0}:make (item 0) has no array for input 'x':"),
        ("def make(): yield {'x': np.zeros((1, 3))}", "{0}:make (item 0) holds arrays of shape"),
        ("def make(): yield {'x': [[1], [1, 2]]}", "{0}:make (item 0) holds list, which numpy"),
        ("def make(): yield {'x': [['a', 'b']]}", "{0}:make (item 0) holds <U1, expected float"),
        ("def make(a): yield a", "{0}:make raised TypeError after 0 samples: make() missing"),
        (
            "def make():\n    yield sample(0)\n    raise KeyError('boom')",
            "{0}:make raised KeyError after 1 samples: 'boom'. See {0}.py, line 6.",
        ),
    ],
)
def test_wrong_code_gets_a_sentence(module, code, message):
    """Each mistake names the function, what it gave, and what was expected."""
    name = module(code)
    assert refusal(f"{name}:make").startswith(message.format(name))


def test_a_missing_module_says_why(module):
    """The reason of the import error is passed on, with where to run."""
    assert refusal("no_such_module:make") == (
        "'no_such_module' of no_such_module:make cannot be imported: ModuleNotFoundError: No"
        " module named 'no_such_module'. Run qanalyze in the folder of no_such_module.py, or"
        " correct the module."
    )
    name = module("import no_such_dependency")
    assert "ModuleNotFoundError: No module named 'no_such_dependency'" in refusal(f"{name}:make")


def test_shapes_that_vary_are_refused(module):
    """Two yields of different width need one shape."""
    name = module("def make():\n    for n in (2, 3): yield {'x': np.zeros((1, n), 'f4')}")
    assert refusal(f"{name}:make", (TensorSpec("x", "float32", (None, None)),)) == (
        f"{name}:make (sample 0) has shape (1, 2) for input 'x', but {name}:make (sample 1) has"
        " (1, 3): all samples of a run need one shape. Pad them to one shape, and pass it with"
        " --shape x=DIMS."
    )
