# SPDX-License-Identifier: Apache-2.0
"""Run an exported script with AMD Quark itself, and tell what it quantized and how well.

python quark_exported.py config.py MODEL.onnx SAMPLES.npz ANSWER.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def outputs(model, samples):
    """Return the outputs of every run, with Q/DQ computed as they stand there."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    count = len(next(iter(samples.values())))
    return [session.run(None, {n: x[i] for n, x in samples.items()}) for i in range(count)]


def quantized(model):
    """Return float tensor -> type of its first QuantizeLinear."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            kind = onnx.TensorProto.DataType.Name(constants[node.input[2]].data_type)
            found.setdefault(node.input[0], kind)
    return found


def integer_weights(model):
    """Return node -> type of its first constant that is stored as integers."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = {
        node.output[0]: onnx.TensorProto.DataType.Name(constants[node.input[0]].data_type)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    found = {}
    for node in model.graph.node:
        for name in node.input:
            if name in stored:
                found.setdefault(node.name, stored[name])
    return found


def main(script, model, data, answer):
    made = Path(answer).with_name("quantized.onnx")
    done = subprocess.run(
        [sys.executable, script, data, made, "--model", model],
        capture_output=True, text=True, cwd=made.parent,  # Quark leaves a table there
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    with np.load(data) as file:
        samples = dict(file)
    names = [output.name for output in onnx.load(model).graph.output]
    nsr = {name: [] for name in names}
    for truth, noisy in zip(outputs(model, samples), outputs(str(made), samples), strict=True):
        for name, x, y in zip(names, truth, noisy, strict=True):
            x, y = x.astype(np.float64), y.astype(np.float64)
            nsr[name].append(((y - x) ** 2).sum() / (x**2).sum())
    proto = onnx.load(made)
    found = {
        "nsr": {name: float(np.mean(values)) for name, values in nsr.items()},
        "quantized": quantized(proto),
        "weights": integer_weights(proto),
    }
    Path(answer).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
