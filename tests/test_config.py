# SPDX-License-Identifier: Apache-2.0
"""Configuration: what beats what, what parses, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.config import (
    Config,
    check_environment,
    parse_shapes,
    parse_share,
    parse_slices,
    resolve,
)
from analyzer.errors import ConfigError


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_nothing_given_is_the_defaults(tmp_path):
    """No file, no flag."""
    assert resolve({}, folder=tmp_path) == Config()


def test_flags_beat_the_file_and_the_file_beats_the_defaults(written):
    """A key with a dash is the same key; None is not given."""
    folder = written(
        '[tool.qanalyze]\ntarget = "onnxruntime"\ncalib-samples = 8\nmax_nsr = "10%"\n'
        "[tool.other]\nx = 1\n"
    )
    given = {"target": "esp32p4", "calib": "data", "calib_samples": None}
    assert resolve(given, folder=folder) == Config(
        calib="data", target="esp32p4", calib_samples=8, max_nsr=0.1
    )


def test_every_field_parses(tmp_path):
    """Text from flags and environment becomes the field's own type."""
    given = {
        "calib": "a", "eval": "b", "target": "esp32p4,onnxruntime", "calib_samples": "16",
        "samples": "4", "calibration": "mse", "shapes": ["x=1,3,8,8"],
        "slices": ["boxes=y[:, :4]"], "labels": "l.csv", "task": "detection", "metric": "m:f",
        "preset": "yolo", "max_nsr": "0.5", "threads": "2", "seed": "0", "size": "8x8",
        "mean": "0.5",
    }  # fmt: skip
    assert resolve(given, folder=tmp_path) == Config(
        calib="a", eval="b", target="esp32p4,onnxruntime", calib_samples=16, samples=4,
        calibration="mse", shapes={"x": (1, 3, 8, 8)}, slices={"boxes": "y[:, :4]"},
        labels="l.csv", task="detection", metric="m:f", preset="yolo",
        preprocessing={"size": "8x8", "mean": "0.5"}, max_nsr=0.5, threads=2, seed=0,
    )  # fmt: skip


def test_samples_may_be_left_to_us(tmp_path):
    """auto is what nothing is."""
    assert resolve({"samples": "auto"}, folder=tmp_path).samples is None


def test_targets_and_shapes_may_be_toml_values(written):
    """A list of names and a table of lists."""
    folder = written(
        '[tool.qanalyze]\ntarget = ["esp32p4", "onnxruntime"]\n'
        'shapes = {x = [1, 3], "a b" = "2"}\n'
    )
    config = resolve({}, folder=folder)
    assert (config.target, config.shapes) == (
        "esp32p4,onnxruntime", {"x": (1, 3), "a b": (2,)}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targt": "x"}, r"no option 'targt'. Did you mean 'target'\?"),
        ({"granularity": "row"}, "granularity: 'row' is unknown"),
        ({"dispatch": ["/conv"]}, "dispatch: '/conv' dispatches nothing"),
        ({"layers": "all"}, r"no option 'layers'. Did you mean 'labels'\?"),
        ({"slices": ["y[0]"]}, r"slices: 'y\[0\]' is no slice. Expected NAME=EXPRESSION"),
        ({"slices": ["=y[0]"]}, "slices: '=y.0.' is no slice"),
        ({"slices": ["a= "]}, "slices: 'a= ' is no slice"),
        ({"slices": ["a=y[0]", " a =z[0]"]}, "slices: Two slices are called 'a'. Give one"),
        ({"task": "detect"}, r"task: 'detect' is unknown. Did you mean 'detection'\?"),
        ({"labels": ["a", "b"]}, r"labels is \['a', 'b'\], expected one value"),
        ({"samples": "0"}, "samples: '0' is no count"),
        ({"samples": "1.5"}, "samples: '1.5' is no count"),
        ({"threads": "-1"}, "threads: '-1' is no count"),
        ({"seed": "x"}, "seed: 'x' is no seed"),
        ({"max_nsr": "ten"}, "max_nsr: 'ten' is no share"),
        ({"shapes": ["x"]}, "shapes: 'x' is no shape"),
        ({"calib": ["a", "b"]}, r"calib is \['a', 'b'\], expected one value"),
    ],
)
def test_what_does_not_parse_is_refused(tmp_path, given, message):
    """The message says which option, and what was found."""
    with pytest.raises(ConfigError, match=message):
        resolve(given, folder=tmp_path)


@pytest.mark.parametrize(
    ("entries", "slices"),
    [
        ("boxes=output0[:, :4]", {"boxes": "output0[:, :4]"}),
        (["a b = y[0]", "c=n=1[::2]"], {"a b": "y[0]", "c": "n=1[::2]"}),
        ({"boxes": "y[:, :4]"}, {"boxes": "y[:, :4]"}),
        ([], {}),
    ],
)
def test_slices(entries, slices):
    """One or several or a table; the first equals sign ends the name, spaces around it go."""
    assert parse_slices(entries) == slices


def test_slices_may_be_a_table(written):
    """As shapes and the dispatch table may."""
    folder = written("[tool.qanalyze.slices]\nboxes = 'y[:, :4]'\n\"all scores\" = 'y[:, 4:]'\n")
    assert resolve({}, folder=folder).slices == {"boxes": "y[:, :4]", "all scores": "y[:, 4:]"}


@pytest.mark.parametrize("name", ["LABELS", "TASK", "METRIC"])
def test_new_variables_are_known(name):
    """The task may be told by the environment."""
    check_environment({f"QANALYZE_{name}": "x"})
    with pytest.raises(ConfigError, match=f"Did you mean 'QANALYZE_{name}'"):
        check_environment({f"QANALYZE_{name}S": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool", "not valid TOML"),
        ("[tool]\nqanalyze = 3", "tool.qanalyze in .* is 3, expected a table"),
        ("[tool.qanalyze]\nfoo = 1", "no option 'foo'"),
    ],
)
def test_a_broken_file_is_refused(written, text, message):
    """A typo in pyproject.toml is not passed over."""
    with pytest.raises(ConfigError, match=message):
        resolve({}, folder=written(text))


def test_a_file_without_our_table_is_no_problem(written):
    """Most projects have a pyproject.toml of their own."""
    assert resolve({}, folder=written("tool = 3\n")) == Config()


@pytest.mark.parametrize(
    ("text", "value"), [("10%", 0.1), ("0.25", 0.25), (" 1e-3 ", 1e-3), (0, 0.0), ("150 %", 1.5)]
)
def test_shares(text, value):
    """A percentage or a ratio."""
    assert parse_share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "-1", "nan", "1%%", "1e", "--"])
def test_what_is_no_share(text):
    """Negative and unreadable numbers."""
    with pytest.raises(ConfigError, match="is no share"):
        parse_share(text)


@given(st.floats(0, 1e6))
def test_shares_are_read_back(value):
    """A ratio and its percentage mean the same."""
    assert parse_share(repr(value)) == value
    assert parse_share(f"{value * 100!r}%") == pytest.approx(value)


@pytest.mark.parametrize(
    ("texts", "shapes"),
    [
        ("images=1,3,640,640", {"images": (1, 3, 640, 640)}),
        (["a=1x2", "b=3"], {"a": (1, 2), "b": (3,)}),
        (["a=b=4"], {"a=b": (4,)}),
        (["sr="], {"sr": ()}),
        ([], {}),
    ],
)
def test_shapes(texts, shapes):
    """One or several, commas or x, a scalar, a name with an equals sign."""
    assert parse_shapes(texts) == shapes


@pytest.mark.parametrize("text", ["images", "=1,2", "x=0,1", "x=1,,2", "x=-1", "x=a"])
def test_what_is_no_shape(text):
    """Without a name, or with an axis below 1."""
    with pytest.raises(ConfigError, match="is no shape"):
        parse_shapes([text])
