# SPDX-License-Identifier: Apache-2.0
"""Exported plans given to PyTorch itself: what FX quantizes has the noise that was simulated."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from exported import exported  # noqa: E402

from analyzer.records import Setting  # noqa: E402

CLOSE = 0.02  # share of the noise
# network, target, setting, modules that stay in float
CASES = [
    ("residual", "pytorch", Setting(), []),
    (
        "residual",
        "pytorch",
        Setting(table={"/a/a.0/Conv": "fp32", "/head/Gemm": "fp32"}),
        ["a.0", "head"],
    ),
    (
        "mobile",
        "pytorch-qnnpack",
        Setting(
            observer="minmax", granularity="channel", table={"/depthwise/depthwise.0/Conv": "fp32"}
        ),
        ["depthwise.0"],
    ),
    (
        "detector",
        "pytorch",
        Setting(granularity="tensor", table={"/score/Conv": "fp32"}),
        ["score"],
    ),
    ("decoder", "pytorch-qnnpack", Setting(table={"/last/Conv": "fp32"}), ["last"]),
    ("transformer", "pytorch", Setting(table={"/down/MatMul": "fp32"}), ["down"]),
    (
        "residual",
        "pytorch",
        Setting(precision="fp32", table={"/b/Conv": "int8", "/head/Gemm": "int8"}),
        ["a.0", "stem.0.0"],  # merged with the ReLU behind it
    ),
]

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def zoo(judge, tmp_path_factory):
    """Networks written in torch, exported to ONNX."""
    folder = tmp_path_factory.mktemp("zoo")
    judge("pytorch", "torch_exported", "export", folder)
    return folder


def ask(judge, zoo, folder, cases):
    """Write plans down and let torch follow them; return (order, answer) of each."""
    orders, asked = [], []
    for number, (name, target, setting) in enumerate(cases):
        where = folder / str(number)
        order, _ = exported(
            where, "pytorch", zoo / f"{name}.onnx", zoo / f"{name}.npz", target, setting
        )
        orders.append(order)
        asked.append([name, str(where)])
    (zoo / "cases.json").write_text(json.dumps(asked), encoding="utf-8")
    answers = judge("pytorch", "torch_exported", "quantize", zoo)
    return list(zip(orders, answers, strict=True))


def test_the_noise_is_what_was_simulated(judge, zoo, tmp_path):
    """Modules named by their parameters or their paths are those meant, and so is the rest."""
    found = ask(judge, zoo, tmp_path, [case[:3] for case in CASES])
    for (order, answer), (name, _, _, floats) in zip(found, CASES, strict=True):
        (ours,) = order.proposal.outputs_after.values()
        assert answer["nsr"] == pytest.approx(ours, rel=CLOSE), name
        assert sorted(answer["float"]) == floats, name


def test_two_plans_come_in_the_same_order(judge, zoo, tmp_path):
    """What the simulation calls the better plan is the better one in torch."""
    cases = [("mobile", "pytorch", Setting(table=t)) for t in ({}, {"/project/Conv": "fp32"})]
    before, after = ask(judge, zoo, tmp_path, cases)
    ours = [next(iter(o.proposal.outputs_after.values())) for o, _ in (before, after)]
    theirs = [answer["nsr"] for _, answer in (before, after)]
    assert (ours[1] < ours[0]) == (theirs[1] < theirs[0])


def test_modules_that_are_not_there_are_refused(judge, zoo, tmp_path):
    """A script for another network names what it does not find, and the nearest module."""
    exported(
        tmp_path, "pytorch", zoo / "detector.onnx", zoo / "detector.npz", "pytorch",
        Setting(table={"/score/Conv": "fp32"}),
    )  # fmt: skip
    asked = [["residual", str(tmp_path)]]
    (zoo / "cases.json").write_text(json.dumps(asked), encoding="utf-8")
    (answer,) = judge("pytorch", "torch_exported", "quantize", zoo)
    assert "'score'" in answer["error"]
    assert "parameter score.weight" in answer["error"]
