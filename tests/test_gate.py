# SPDX-License-Identifier: Apache-2.0
"""The gate: what passes, what fails, and that every failure is one line with its number."""

from __future__ import annotations

import dataclasses
import math

import pytest

from analyzer.cli.gate import Old, failures, read_old
from analyzer.config import Config
from analyzer.errors import ConfigError, StoreError
from analyzer.records import Analysis, OutputError, Provenance, QuantPlan, TaskScore
from analyzer.store import write_json


def analysis(*outputs: OutputError, task: tuple[TaskScore, ...] = ()) -> Analysis:
    provenance = Provenance("0", "qanalyze m.onnx", {"name": "m"}, "esp32p4", (), 0, {}, {})
    plan = QuantPlan("esp32p4", (), frozenset(), {}, ())
    return Analysis(provenance, outputs, (), plan, task=task)


def output(name: str, nsr: float, slice_of: str | None = None) -> OutputError:
    return OutputError(name, nsr, 0.0, 0.9, 1.0, slice_of=slice_of)


def agreement(value: float, name: str = "top-1 agreement", against: str = "fp32") -> TaskScore:
    return TaskScore(name, value, None, against, 32)  # type: ignore[arg-type]


def no_worse(new: Analysis, old: Analysis) -> list[str]:
    return failures(new, Config(), Old(bar=old, bar_path="old.json"))


def test_nothing_asked_nothing_failed():
    """Without a gate everything passes."""
    assert failures(analysis(output("y", math.inf)), Config(), Old()) == []


@pytest.mark.parametrize(
    ("nsr", "limit", "passes"),
    [(0.1, 0.1, True), (0.10001, 0.1, False), (math.nan, 0.5, False), (0.0, 0.0, True)],
)
def test_highest_nsr(nsr, limit, passes):
    """Any whole output above the limit fails; so does one that is no number."""
    found = failures(analysis(output("a", 0.0), output("y", nsr)), Config(max_nsr=limit), Old())
    assert (found == []) is passes


def test_every_failure_is_a_line():
    """One for each option, with what was measured and what was asked for."""
    config = Config(max_nsr=0.1, min_agreement=0.99)
    found = failures(analysis(output("y", 0.2063), task=(agreement(0.8125),)), config, Old())
    assert found == [
        "Gate failed: output 'y' has an NSR of 20.630% for esp32p4, above --max-nsr 10.000%.",
        "Gate failed: 'top-1 agreement' is 0.812 for esp32p4, below --min-agreement 0.99.",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.98, "0.980"), (0.98996, "0.98996"), (math.nan, "nan")]
)
def test_lowest_agreement(value, shown):
    """A value just below is written with the digits that tell it from the limit."""
    (line,) = failures(
        analysis(output("y", 0), task=(agreement(value),)), Config(min_agreement=0.99), Old()
    )
    assert f"is {shown} for" in line
    passed = analysis(output("y", 0), task=(agreement(0.99),))
    assert failures(passed, Config(min_agreement=0.99), Old()) == []


def test_agreement_is_the_first_score_against_fp32():
    """Scores by labels are no agreement; without any the gate cannot hold."""
    task = (agreement(0.1, against="labels"), agreement(1.0), agreement(0.2, "box AP50"))
    assert failures(analysis(output("y", 0), task=task), Config(min_agreement=0.99), Old()) == []
    (line,) = failures(analysis(output("y", 0), task=task[:1]), Config(min_agreement=0.99), Old())
    assert line.startswith("Gate failed: no agreement with FP32 was measured for esp32p4")


@pytest.mark.parametrize(
    ("old", "new", "passes"),
    [
        (0.2, 0.2, True),
        (0.2, 0.202, True),  # 1 % of 0.2 is 0.002
        (0.2, 0.2021, False),
        (0.0, 0.0, True),
        (0.0, 1e-6, False),
        (math.inf, math.inf, True),
        (0.2, math.nan, False),
        (math.nan, math.nan, True),
        (math.nan, 0.1, True),
    ],
)
def test_no_output_worse_than_before(old, new, passes):
    """1 % of the value is machine noise, more is a loss; slices count as well."""
    for slice_of in (None, "other"):
        whole = () if slice_of is None else (output("other", 0.0),)
        found = no_worse(
            analysis(*whole, output("y", new, slice_of)),
            analysis(*whole, output("y", old, slice_of)),
        )
        assert (found == []) is passes


@pytest.mark.parametrize(
    ("old", "new", "passes"),
    [(0.95, 0.949, True), (0.95, 0.9489, False), (0.95, 1.0, True), (math.nan, 0.1, True),
     (0.9, math.nan, False)],
)  # fmt: skip
def test_no_score_worse_than_before(old, new, passes):
    """The last printed digit may differ."""
    found = no_worse(
        analysis(output("y", 0), task=(agreement(new),)),
        analysis(output("y", 0), task=(agreement(old),)),
    )
    assert (found == []) is passes


def test_what_vanished_fails():
    """An output, a slice or a score of before that is not there now; new ones are no failure."""
    old = analysis(output("y", 0.1), output("boxes", 0.1, "y"), task=(agreement(1.0),))
    new = analysis(output("z", 0.1), task=(agreement(0.1, against="labels"),))
    assert no_worse(new, old) == [
        "Gate failed: there is no output 'y', as there is in old.json.",
        "Gate failed: there is no slice 'boxes', as there is in old.json.",
        "Gate failed: there is no score 'top-1 agreement', as there is in old.json.",
    ]


def test_names_cannot_break_the_line():
    """A line break or an escape in a name is shown, not obeyed."""
    (line,) = failures(analysis(output("a\n\x1b[2J", 1.0)), Config(max_nsr=0.1), Old())
    assert line.isprintable()


def test_old_files_are_read_once_and_early(tmp_path):
    """Both options may name one file; a bad path is an error before anything is run."""
    path = tmp_path / "old.json"
    stored = dataclasses.replace(analysis(output("y", 0.5)))
    write_json(stored, path)
    old = read_old(Config(baseline=str(path), no_worse_than=str(path)), several=False)
    assert old.baseline is old.bar is old.on_page
    assert old.on_page.outputs == stored.outputs
    with pytest.raises(StoreError, match="nowhere"):
        read_old(Config(no_worse_than=str(tmp_path / "nowhere.json")), several=False)


@pytest.mark.parametrize("option", ["baseline", "no_worse_than"])
def test_one_file_is_of_one_target(option):
    """With several targets there is no telling which of them a file is of."""
    config = Config(**{option: "old.json"})
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} is one analysis of one"):
        read_old(config, several=True)
    assert read_old(Config(), several=True) == Old()
