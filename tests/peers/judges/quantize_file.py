# SPDX-License-Identifier: Apache-2.0
"""Quantize an ONNX file as a user of NNCF or ModelOpt does, defaults but for what is named.

    python quantize_file.py nncf|modelopt MODEL.onnx INPUT DATA.npy OUT.onnx ANSWER.json

DATA holds the samples of the one input along a new first axis.  ModelOpt keeps the rest of the
network in float32 (its default is float16).  The answer counts the operators of OUT.onnx.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx


def nncf(model: str, name: str, data: np.ndarray, out: str) -> None:
    """Quantize with the ONNX backend."""
    import nncf as tool

    dataset = tool.Dataset(list(data), lambda x: {name: x})
    onnx.save(tool.quantize(onnx.load(model), dataset, subset_size=len(data)), out)


def modelopt(model: str, name: str, data: np.ndarray, out: str) -> None:
    """Quantize to int8, ranges by largest magnitude."""
    from modelopt.onnx.quantization import quantize

    quantize(
        model, quantize_mode="int8", calibration_data={name: np.concatenate(list(data))},
        calibration_method="max", calibration_eps=["cpu"], output_path=out,
        high_precision_dtype="fp32",
    )  # fmt: skip


def main() -> None:
    """Quantize, save, count."""
    tool, model, name, data, out, answer = sys.argv[1:]
    {"nncf": nncf, "modelopt": modelopt}[tool](model, name, np.load(data), out)
    kinds = Counter(node.op_type for node in onnx.load(out).graph.node)
    Path(answer).write_text(json.dumps(kinds), encoding="utf-8")


if __name__ == "__main__":
    main()
