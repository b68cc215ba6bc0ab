# SPDX-License-Identifier: Apache-2.0
"""Configuration: what beats what, what parses, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.config import GATE, Config, check_environment, resolve
from analyzer.errors import ConfigError
from analyzer.values import (
    parse_budget,
    parse_goal,
    parse_seconds,
    parse_shapes,
    parse_share,
    parse_slices,
)


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
        "mean": "0.5", "budget": "12ms", "latency": "t.csv", "goal": "top-1=98%",
        "time_limit": "2m", "export": "qdq,esp-ppq, qdq", "propose": True,
        "min_agreement": "99%", "no_worse_than": "old.json", "baseline": "a.json",
    }  # fmt: skip
    assert resolve(given, folder=tmp_path) == Config(
        calib="a", eval="b", target="esp32p4,onnxruntime", calib_samples=16, samples=4,
        calibration="mse", shapes={"x": (1, 3, 8, 8)}, slices={"boxes": "y[:, :4]"},
        labels="l.csv", task="detection", metric="m:f", preset="yolo",
        preprocessing={"size": "8x8", "mean": "0.5"}, max_nsr=0.5, threads=2, seed=0,
        budget=(12.0, "ms"), latency="t.csv", goal=("top-1", 0.98), time_limit=120.0,
        export=("qdq", "esp-ppq"), propose=True, min_agreement=0.99, no_worse_than="old.json",
        baseline="a.json",
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
        ({"min_agreement": "99"}, "min_agreement: '99' is no agreement. Expected a share up to"),
        ({"min_agreement": "most"}, "min_agreement: 'most' is no agreement"),
        ({"shapes": ["x"]}, "shapes: 'x' is no shape"),
        ({"calib": ["a", "b"]}, r"calib is \['a', 'b'\], expected one value"),
        ({"budget": "5"}, "budget: '5' is no budget. Expected a share .* or a time such as 12ms"),
        ({"budget": "x ms"}, "budget: 'x ms' is no budget"),
        ({"budget": "12ms"}, "budget: 12 ms cannot be held .* Give --latency TABLE.csv"),
        ({"goal": "fast"}, "goal: 'fast' is no goal. Expected an NSR such as 1%"),
        ({"goal": "=1%"}, "goal: '=1%' is no goal"),
        ({"goal": "top-1="}, "goal: 'top-1=' is no goal"),
        ({"time_limit": "soon"}, "time_limit: 'soon' is no time span. Expected one such as 60s"),
        ({"time_limit": "0s"}, "time_limit: '0s' is no time span"),
        ({"export": " , "}, "export: ' , ' names no format"),
        ({"propose": "maybe"}, "propose: 'maybe' is neither. Expected true or false"),
        ({"export": "qdq", "propose": False}, "--export needs proposals.* with --no-propose"),
        ({"goal": "1%", "propose": False}, "--goal needs proposals"),
        ({"export": "qdq", "quantized": "q.onnx"}, "--export needs .* none of with --quantized"),
        ({"export": "model-explorer,qdq", "propose": False}, "--export needs proposals"),
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


@pytest.mark.parametrize("name", ["LABELS", "METRIC", "BUDGET", "LATENCY", "EXPORT"])
def test_new_variables_are_known(name):
    """What is wanted of a run may be told by the environment."""
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


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5%", (0.05, "share")), (0.1, (0.1, "share")), ("100%", (1.0, "share")),
        ("0", (0.0, "share")), ("12ms", (12.0, "ms")), (" 0.5 ms ", (0.5, "ms")),
    ],
)  # fmt: skip
def test_budgets(text, budget):
    """A share of the multiply-accumulates, or a time."""
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["101%", "-1%", "ms", "1.2.3ms", "12s", "nan", "", "1e999"])
def test_what_is_no_budget(text):
    """More than everything, other units, nothing."""
    with pytest.raises(ConfigError, match="is no budget"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("1%", ("nsr", 0.01)), (0.01, ("nsr", 0.01)), ("NSR = 1%", ("nsr", 0.01)),
        ("top-1=98%", ("top-1", 0.98)), ("box AP50=0.95", ("box AP50", 0.95)),
        ("a=b=0.5", ("a=b", 0.5)),
    ],
)  # fmt: skip
def test_goals(text, goal):
    """A value alone is an NSR; the last equals sign ends the name of a score."""
    assert parse_goal(text) == goal


@pytest.mark.parametrize("text", ["", "=", "nsr=", "nsr=inf", "nsr=-1", "x=1e999"])
def test_what_is_no_goal(text):
    """Nothing, no number, and no finite one."""
    with pytest.raises(ConfigError, match="is no goal"):
        parse_goal(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60.0), ("2m", 120.0), ("1.5 min", 90.0), ("1h", 3600.0), (45, 45.0), (".5s", 0.5)],
)
def test_time_spans(text, seconds):
    """Seconds unless it says otherwise."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "0", "1d", "1e3", "5 %", "nan"])
def test_what_is_no_time_span(text):
    """Nothing, nothing above 0, other units."""
    with pytest.raises(ConfigError, match="is no time span"):
        parse_seconds(text)


def test_formats_may_be_a_list(written):
    """`all` among them is all of them."""
    assert resolve({}, folder=written('[tool.qanalyze]\nexport = ["qdq", "nncf"]\n')).export == (
        "qdq", "nncf",
    )  # fmt: skip
    assert resolve({"export": "qdq,all"}, folder=written("")).export == ("all",)
    assert resolve({}, folder=written("[tool.qanalyze]\nexport = []\n")).export == ()


def test_a_file_that_asks_for_exports_does_not_stand_in_the_way(written):
    """What every run of a project shall do is left out of one without proposals."""
    folder = written('[tool.qanalyze]\nexport = "qdq"\nbudget = "12ms"\ntime-limit = 60\n')
    for stated in ({"propose": False}, {"quantized": "q.onnx"}):
        config = resolve(stated, folder=folder)
        assert (config.propose, config.export, config.time_limit) == (False, (), 60.0)


def test_only_some_keys_of_the_file_matter(written):
    """What is asked of the numbers holds without what is asked of the run; typos stay errors."""
    folder = written('[tool.qanalyze]\ntarget = "x"\nbudget = "3ms"\nmin-agreement = "99%"\n')
    assert resolve({"baseline": "b"}, folder=folder, only=GATE) == Config(
        min_agreement=0.99, baseline="b"
    )
    with pytest.raises(ConfigError, match="There is no option 'targte'"):
        resolve({}, folder=written("[tool.qanalyze]\ntargte = 1\n"), only=GATE)


@pytest.mark.parametrize("without", [{"propose": False}, {"quantized": "q.onnx"}])
def test_what_was_measured_is_exported_without_proposals(tmp_path, without):
    """Model Explorer shows errors, not a plan."""
    config = resolve({"export": "model-explorer", **without}, folder=tmp_path)
    assert config.export == ("model-explorer",)
