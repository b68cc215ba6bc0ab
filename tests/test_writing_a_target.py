# SPDX-License-Identifier: Apache-2.0
"""The target that the documentation writes: found as a plug-in, and what it promises."""

from __future__ import annotations

import json

import numpy as np
import pytest
from doc_pages import DOCS, lay_out, page_of, run

ANALYSE = "qanalyze sample_models/digits_dw.onnx --calib sample_models/digits_dw/ --target mcu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout with the page's files, and its package as if it were installed."""
    made = tmp_path_factory.mktemp("mcu") / "checkout"
    lay_out(page_of(DOCS / "writing_a_target.md"), made)
    return made


def test_the_target_is_found_by_its_entry_point(folder):
    """`--list-targets` names it with what it offers, and a misspelt name leads to it."""
    listed = run("qanalyze --list-targets", folder)
    assert "a made-up MCU engine" in listed.stdout
    wrong = run(ANALYSE.replace("mcu", "mcuu"), folder)
    assert (wrong.returncode, "'mcu'" in wrong.stderr) == (2, True)


def test_the_tests_of_the_page_pass(folder):
    """The page's own tests of its target pass."""
    ran = run("python -m pytest -q -p no:cacheprovider -p no:randomly test_mcu_target.py", folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout


def test_an_analysis_with_it_holds_what_the_page_says(folder):
    """Moved values keep their grid, the table leaves a layer in float, biases have 32 bits."""
    ran = run(f"{ANALYSE} --dispatch /classify/Gemm=fp32 --no-propose --out out -q", folder)
    assert ran.returncode == 0, ran.stderr
    analysis = json.loads((folder / "out" / "analysis.json").read_text(encoding="utf-8"))
    plan = analysis["plan"]
    at = {(q["node"], q["slot"]): q for q in plan["quantizers"]}
    assert plan["precision"]["/classify/Gemm"] == "fp32"
    assert not any(node == "/classify/Gemm" for node, _ in at)
    split, behind = at["/mix/Split", "out0"], at["/pw2/act/Relu", "out0"]
    assert split["scale"] == behind["scale"]
    assert {q["bits"] for q in at.values() if q["role"] == "bias"} == {32}
    assert {q["bits"] for q in at.values() if q["role"] != "bias"} == {8}
    nsr = analysis["outputs"][0]["nsr"]
    assert np.isfinite(nsr)
    assert 0 < nsr < 1


@pytest.mark.slow
def test_a_plan_for_it_is_searched_and_exported(folder):
    """Proposals are simulated by its rules, and the recommended one becomes a Q/DQ model."""
    faulty = ANALYSE.replace("digits_dw.onnx", "digits_dw_outlier_channel.onnx")
    ran = run(f"{faulty} --export qdq --budget 100% --out faulty", folder)
    assert ran.returncode == 0, ran.stderr
    assert list((folder / "faulty" / "export").rglob("*.onnx"))
