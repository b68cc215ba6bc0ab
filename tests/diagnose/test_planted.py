# SPDX-License-Identifier: Apache-2.0
"""A planted fault of known place is what a diagnosis names first."""

from __future__ import annotations

import pytest
from sample_faults import CODES, NAMED, SAMPLES, planted

from analyzer.config import resolve
from analyzer.pipeline import run

# Codes that a network without that fault may have as well: SiLU wastes half a grid everywhere,
# and what is left to improve in a clean network is rounding.
COMMON = {"QA104", "QA109"}


def analysed(model, options):
    return run(model, resolve({**options, "samples": "4", "propose": False}))


def right(case, analysis, finding):
    """Say whether a finding has the planted code and layer."""
    rows = {row.name: row.source_nodes for row in analysis.layers}
    return case.is_named_by(finding.code, finding.layer, rows.get(finding.layer, ()))


def check(name, folder):
    case = planted(name, folder)
    found = analysed(case.faulty, case.faulty_run)
    assert right(case, found, found.findings[0]), found.findings
    assert found.findings[0].gain > 0.2
    return case


@pytest.mark.parametrize("name", [n for n, spot in NAMED.items() if spot.model == "digits_dw"])
def test_a_planted_fault_comes_first(name, tmp_path):
    """Of eight kinds of faults in the classifier, each is the first finding, at its layer."""
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_planted_fault_comes_first_and_not_in_the_clean_twin(name, tmp_path):
    """In both networks; the clean twin has no such finding: at that layer, and mostly anywhere."""
    case = check(name, tmp_path)
    twin = analysed(case.clean, case.clean_run)
    assert not [f for f in twin.findings if right(case, twin, f)]
    codes = {finding.code for finding in twin.findings} - COMMON
    assert case.truth["code"] not in codes


def test_a_clean_network_has_no_planted_fault():
    """The classifier has no finding of a code that stands for one fault at one layer."""
    planted_codes = {CODES[spot.fault] for spot in NAMED.values()} - COMMON
    found = analysed(SAMPLES / "digits_dw.onnx", {"calib": str(SAMPLES / "digits_dw")})
    assert planted_codes == {"QA101", "QA102", "QA105", "QA107", "QA108", "QA112"}
    assert planted_codes.isdisjoint(finding.code for finding in found.findings)
