# SPDX-License-Identifier: Apache-2.0
"""Records: light to import, frozen, with a few look-ups."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest

from analyzer import records
from analyzer.records import Analysis, Interaction, OutputError, Quantizer, sqnr_db


def test_importing_records_imports_no_runtime():
    """An old analysis renders on a machine without onnx and onnxruntime."""
    code = (
        "import sys; import analyzer.records; "
        "print([m for m in ('onnx', 'onnxruntime', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", [n for n, v in vars(records).items() if dataclasses.is_dataclass(v)]
)
def test_records_are_frozen_and_slotted(name):
    """What a stage hands on is not changed by the next one."""
    record = getattr(records, name)
    assert record.__dataclass_params__.frozen
    assert "__slots__" in vars(record)


def test_the_key_of_a_quantizer():
    """Node and slot together are unique within a plan."""
    assert Quantizer("conv", "in1", "w", "weight", 8).key == ("conv", "in1")


@pytest.mark.parametrize(
    ("values", "worst"), [([0.1, 0.3, 0.2], 1), ([0.1, math.inf, 0.2], 1), ([5, 0, math.nan], 2)]
)
def test_the_worst_output(values, worst):
    """The highest NSR; NaN is worse than any finite number."""
    outputs = tuple(OutputError(str(i), v, 0, 0, 0) for i, v in enumerate(values))
    analysis = Analysis(provenance=None, outputs=outputs, layers=(), plan=None)
    assert analysis.worst_output is outputs[worst]


def test_a_slice_is_never_the_worst_output():
    """It is a part of one, and may well be worse than any whole."""
    outputs = (
        OutputError("y", 0.1, 0, 0, 0),
        OutputError("scores", 1.0, 0, 0, 0, slice_of="y"),
        OutputError("z", 0.2, 0, 0, 0),
    )
    analysis = Analysis(provenance=None, outputs=outputs, layers=(), plan=None)
    assert analysis.worst_output.name == "z"


@pytest.mark.parametrize(("together", "effect"), [(0.5, 0.2), (0.25, -0.05), (math.inf, math.inf)])
def test_the_effect_of_an_interaction(together, effect):
    """What appears, or vanishes, beyond the two alone."""
    found = Interaction("y", "a", "b", (), (0.1, 0.2), together, 2)
    assert found.effect == pytest.approx(effect)


@pytest.mark.parametrize(
    ("nsr", "db"),
    [(0.0, math.inf), (math.inf, -math.inf), (1.0, 0.0), (0.001, 30.0), (4.0, -6.0206)],
)
def test_sqnr_in_db(nsr, db):
    """-10 log10, with both ends infinite."""
    assert sqnr_db(nsr) == pytest.approx(db, abs=1e-4)


def test_sqnr_of_nan_is_nan():
    """A ratio that is not known has no decibels."""
    assert math.isnan(sqnr_db(math.nan))
