# SPDX-License-Identifier: Apache-2.0
"""An analysis made by hand: small, and with every kind of name and value that hurts a report."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyzer.records import (
    Analysis,
    Change,
    DataInfo,
    Finding,
    LayerError,
    OutputError,
    Proposal,
    Provenance,
    Quantizer,
    QuantPlan,
)

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
            findings=("QA103",),
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
        findings=(Finding("QA103", SCRIPT, {"ratio": 38.5}, "Use a percentile observer."),),
        proposals=(
            Proposal("mixed", True, (Change("precision", SCRIPT, "int8", "int16", 0.02),), 0.02,
                     {"out": 0.031}, {"out": 0.011}),
        ),
        timing={"load": 0.5, "probe": 4.25},
        peak_rss_bytes=512_000_000,
        warnings=(f"Layer {SCRIPT} [bold]diverges[/bold].",),
    )  # fmt: skip
