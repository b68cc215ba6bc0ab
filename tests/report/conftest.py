# SPDX-License-Identifier: Apache-2.0
"""An analysis made by hand: small, and with every kind of name and value that hurts a report."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.records import (
    Analysis,
    Attempt,
    Balance,
    Change,
    Cost,
    DataInfo,
    Finding,
    Interaction,
    LayerError,
    OutputError,
    Proposal,
    Provenance,
    Quantizer,
    QuantPlan,
    Setting,
    Source,
    Step,
    TaskScore,
)
from analyzer.report.files import write_reports

SCRIPT = "</script><img src=x onerror=alert(1)>"
MARKUP = "/head[red]/Conv[/head]"
LONG = "/model" + "/block" * 49
ARABIC = "/\u0637\u0628\u0642\u0629/Conv"
CONTROL = "clear\x1b[2J\n\u202egnp.exe|`$x$`"


def _layers() -> tuple[LayerError, ...]:
    return (
        LayerError(
            "conv_first", "Conv", ("conv_first", "bn_first"), computing=True, macs=1_000_000,
            graphwise_nsr=0.002, graphwise_cosine=0.999, graphwise_sqnr_db=26.98970004336019,
            graphwise_max_abs=0.25, local_nsr=0.002, isolated_nsr=0.000042,
            isolated_ci=(0.00003, 0.00006), isolated_samples=8,
            isolated_by_output={"out": 0.00002, SCRIPT: 0.000064},
            parts={"weight": 0.75, "input": 0.25},
        ),
        LayerError(
            SCRIPT, "Conv", (SCRIPT,), computing=True, graphwise_nsr=0.04, local_nsr=0.01,
            isolated_nsr=0.031, isolated_ci=(0.028, 0.034), isolated_samples=8,
            findings=("QA999",),
        ),
        LayerError(MARKUP, "MatMul", computing=True, graphwise_nsr=math.inf, local_nsr=0.0,
                   isolated_nsr=math.inf, isolated_samples=2),
        LayerError(LONG, "Gemm", computing=True, precision="int16", graphwise_nsr=0.02,
                   local_nsr=0.005, isolated_nsr=0.012, isolated_samples=8),
        LayerError(ARABIC, "Conv", computing=True, graphwise_nsr=0.03, local_nsr=0.001,
                   isolated_nsr=0.0005, isolated_samples=8, group="g1"),
        LayerError(CONTROL, "Add", graphwise_nsr=0.035, local_nsr=0.0001, group="g1",
                   status="isolated: not measured, time limit reached"),
        LayerError("softmax", "Softmax", precision="fp32", status="float: left in FP32"),
    )  # fmt: skip


@pytest.fixture
def analysis() -> Analysis:
    """Two outputs, seven layers, hostile names, inf, None and a per-channel quantizer."""
    layers = _layers()
    names = tuple(layer.name for layer in layers)
    return Analysis(
        provenance=Provenance(
            "0.1.0", "qanalyze net.onnx --calib data", {"name": "net", "sha256": "ab" * 32,
            "nodes": 9, "parameters": 1234567, "notes": ["Folded 1 BatchNormalization."]},
            "esp32p4",
            (
                DataInfo("calibration", 32, 40, "data", "cd" * 32, {"x": (1, 3, 8, 8)}),
                DataInfo("analysis", 8, 40, "data", "ef" * 32, {"x": (1, 3, 8, 8)}, "RGB / 255",
                         skipped=("broken.png: not an image",), selection="evenly spaced"),
            ),
            7, {"observer": "kl", "limit": math.inf, "hostile": SCRIPT}, {"numpy": "2.0"},
        ),
        outputs=(
            OutputError("out", 0.031, 15.086383061657273, 0.984, 12.25, 0.0279, 0.9),
            OutputError(SCRIPT, 0.002, 26.98970004336019, 0.999, 0.5),
        ),
        layers=layers,
        plan=QuantPlan(
            "esp32p4", names, frozenset(x.name for x in layers if x.computing),
            {x.name: x.precision for x in layers},
            (
                Quantizer(SCRIPT, "in1", "w", "weight", 8, axis=0,
                          scale=np.array([0.5, 0.25, 0.125]),
                          zero_point=np.zeros(3, np.int64)),
                Quantizer(ARABIC, "out0", MARKUP, "activation", 8, scale=np.array([0.0625]),
                          zero_point=np.array([0]), follows=(SCRIPT, "out0"), group="g1"),
                Quantizer("softmax", "in0", "s", "activation", 8, active=False),
            ),
            ("Swish is one layer.",),
        ),
        findings=(Finding("QA999", SCRIPT, {"ratio": 38.5}, "Use a percentile observer."),),
        timing={"load": 0.5, "probe": 4.25},
        peak_rss_bytes=512_000_000,
        warnings=(f"Layer {SCRIPT} [bold]diverges[/bold].",),
    )  # fmt: skip


GROUP = f"{MARKUP}:out0"


@pytest.fixture
def booked(analysis: Analysis) -> Analysis:
    """The same with a balance that does not add up, slices, causes, parts and a task.

    At the worst output `out`: 3 % accumulated, sources 4 % + 1 % + 0.001 %, together 2 % less.
    """
    first, second, *others = analysis.layers
    sources = (
        Source(
            GROUP,
            "group",
            (MARKUP, SCRIPT),
            ((MARKUP, "out0"), (SCRIPT, "in0")),
            0.03,
            (0.02, 0.04),
            8,
            {"out": 0.04, SCRIPT: 0.002},
            alignment_price=0.025,
        ),
        Source(
            "conv_first",
            "layer",
            ("conv_first",),
            (("conv_first", "in1"),),
            0.01,
            None,
            2,
            {"out": 0.01, SCRIPT: 0.001},
        ),
        Source(
            CONTROL,
            "group",
            (ARABIC, "softmax"),
            ((ARABIC, "out0"),),
            0.00001,
            None,
            1,
            {"out": 0.00001},
        ),
        Source(
            "softmax",
            "layer",
            ("softmax",),
            (("softmax", "in0"),),
            status="isolated error not measured: too small",
        ),
    )
    together = (
        Interaction("out", "conv_first", CONTROL, (), (0.01, 0.00001), 0.0101, 2),
        Interaction("out", GROUP, None, (), (0.04, 0.01001), 0.03, 2),
        Interaction("out", "conv_first", None, (GROUP,), (0.01, 0.00001), 0.0115, 2),
    )
    steps = (
        Step("conv_first", 1, {"out": 0.01, SCRIPT: 0.0}),
        Step(MARKUP, 3, {"out": 0.05, SCRIPT: math.inf}),
        Step("softmax", 7, {"out": 0.03, SCRIPT: 0.002}),
    )
    return dataclasses.replace(
        analysis,
        outputs=(
            OutputError("out", 0.03, 15.2, 0.984, 12.25, 0.05001, 1.667, 0.030),
            OutputError(SCRIPT, 0.002, 26.98970004336019, 0.999, 0.5, 0.003, 1.5, 0.003),
            OutputError("boxes", 0.0004, 34.0, 0.9999, 12.25, slice_of="out"),
            OutputError("scores", 1.0, 0.0, 0.0, 1.0, slice_of="out", lost=True),
        ),
        layers=(
            first,
            dataclasses.replace(
                second,
                parts={"weight": 0.2, "input": 0.5, "output": 0.3, "bias": 0.0, "rounding": 0.25,
                       "clipping": 0.75, "weight_clipping": 0.0, "input_clipping": 0.9},
                channels=((17, 0.6), (3, 0.004)),
            ),
            *others,
        ),
        findings=(
            Finding("QA203", SCRIPT, {"range_ratio": 128.0, "channels": [3, 17, 5, 9],
                                      "where": SCRIPT}, "Compare with minmax.", 0.9321),
            Finding("QA206", MARKUP, {"slot": "in1", "seen": 8.25, "kept": 2.0,
                                      "share": 0.00125, "exponent": -3}, "Clip it.", 0.04),
            Finding("QA205", "conv_first", {}, "Remove it.", -0.12),
            Finding("QA204", CONTROL, {"bits": 20, "channels": 3}, "Use 16 bits."),
            Finding("QA204", LONG, {"bits": 20, "channels": 1}, "Use 16 bits."),
        ),
        balance=Balance(sources, together, steps),
        task=(
            TaskScore("box AP50", 0.94, None, "fp32", 8, ("out", SCRIPT)),
            TaskScore("box AP50:95", 0.8309, None, "fp32", 8, ("out", SCRIPT)),
            TaskScore(f"top-1{MARKUP}", 0.75, 0.875, "labels", 1),
        ),
    )  # fmt: skip


def _plans() -> tuple[Proposal, ...]:
    before = {"out": 0.03, SCRIPT: 0.002, "scores": 1.0}
    scored = {"box AP50": 0.94, "cosine": 0.999}
    calibration = Change("calibration", "", "kl", MARKUP, 0.0, 0.014, 0.012)
    table = dict.fromkeys((SCRIPT, MARKUP, CONTROL, LONG, ARABIC), "int16")
    precision = Change("precision", SCRIPT, "int8", "int16", 0.021, None, 0.003, tuple(table))
    split = Change("weight_split", "conv_first", "one", "two", 0.02, layers=("conv_first",))
    return (
        Proposal(f"dear {SCRIPT}", False, (calibration, precision, split), 0.12, before,
                 {"out": 0.0015, SCRIPT: 0.0001, "scores": 0.1}, scored,
                 {"box AP50": 1.0, "cosine": 0.99999}, Cost(0.12, 0.1, 0.03, 2, 1.12), 0.05, 0.04,
                 4, True),
        Proposal("plan 2", True, (calibration, precision), 0.021, before,
                 {"out": 0.003, SCRIPT: 0.0002, "scores": 0.1}, scored,
                 {"box AP50": 0.97, "cosine": 0.9999}, Cost(0.021, 0.01, time=1.02), 0.1, 0.19, 4,
                 True, f"The least noise within the budget of {SCRIPT}.",
                 Setting(MARKUP, table=table)),
        Proposal("plan 1", False, (calibration,), 0.0, before,
                 {"out": 0.012, SCRIPT: 0.0008, "scores": 0.4}, scored,
                 {"box AP50": 0.95, "cosine": 0.999}, Cost(), 0.4, 0.5, 4, True),
        Proposal("worse", False, (split,), 0.02, before,
                 {"out": 0.039, SCRIPT: 0.0026, "scores": math.inf}, scored, {},
                 Cost(0.02, 0.0, 0.03, 2, 1.05), 1.3, None, 4),
    )  # fmt: skip


@pytest.fixture
def advised(booked: Analysis) -> Analysis:
    """The same with four plans, three of them on the front, and a log.

    Predictions of what goes, held against what went: 0.96 and 0.95, 0.81 and 0.9, 0.5 and 0.6;
    of the log 0.5 and 0.4, 0.2 and 0.25, and one of next to nothing.
    """
    return dataclasses.replace(
        booked,
        proposals=_plans(),
        attempts=(
            Attempt("run 1", (f"precision {SCRIPT}: int8 → int16",), "start", 0.5, 0.6, "helps",
                    2),
            Attempt("run 2", ("weight split a: one → two", MARKUP), CONTROL, 0.8, 0.75,
                    "better", 4),
            Attempt("run 3", ("idle",), "start", 0.7, 0.999, f"dropped: {MARKUP}", 2),
            Attempt("run 4", ("harm",), "start", None, math.inf, "hurts", 2),
        ),
    )  # fmt: skip


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
_WRITTEN: dict[str, Path] = {}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests that need it are skipped where it is absent."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium in PATH or CHROMIUM")
    api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    with api.sync_playwright() as playwright:
        # --no-sandbox: as root in a container Chromium does not start without.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def _written(which: str, analysis: Analysis, folders: pytest.TempPathFactory) -> str:
    """The address of a page, written once for all tests."""
    if which not in _WRITTEN:
        _WRITTEN[which] = write_reports(analysis, folders.mktemp(which))["report.html"]
    return _WRITTEN[which].as_uri()


@pytest.fixture
def url(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of `analysis`."""
    return _written("small", analysis, tmp_path_factory)


@pytest.fixture
def full(advised: Analysis, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of `advised`."""
    return _written("full", advised, tmp_path_factory)


@pytest.fixture
def exported_text() -> str:
    """An export with everything that HTML could take for its own."""
    return '{"</pre>": "\u00e4",\n\t"b": 1}'


@pytest.fixture
def exported(
    advised: Analysis, exported_text: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The page of `advised` with an export of two files."""
    texts = {"esp-ppq/setting.json": exported_text, "esp-ppq/quantize.py": "print()\n"}
    return _written("exported", dataclasses.replace(advised, exports=texts), tmp_path_factory)
