# SPDX-License-Identifier: Apache-2.0
"""Run an exported script with ModelOpt, then its model beside the float one.

    modelopt_exported.py SCRIPT.py MODEL.onnx INPUTS.npz FLOAT ANSWER.json

FLOAT is fp16 or fp32: what the rest of the network becomes.  The answer has "nsr": output ->
noise-to-signal ratio, mean over the samples; or "error", where the script refuses.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort


def outputs(path, runs):
    """Run a model as it stands, Q/DQ pairs as pairs: name -> array per run."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = [session.run(None, run) for run in runs]
    return {name: [np.float64(values[i]) for values in found] for i, name in enumerate(names)}


def widened(path):
    """Write a copy that holds the same numbers in FP32 where there was FP16; return its path.

    onnxruntime's QuantizeLinear on the CPU cuts FP16 towards zero, which no device does.
    """
    model = onnx.load(path)
    del model.graph.value_info[:]
    attributes = [a for node in model.graph.node for a in node.attribute]
    for attribute in attributes:
        if attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT16:
            attribute.i = onnx.TensorProto.FLOAT
    constants = [a.t for a in attributes if a.type == onnx.AttributeProto.TENSOR]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    copy = path.with_suffix(".wide.onnx")
    onnx.save(model, copy)
    return copy


def nsr(noisy, clean):
    """Noise power over signal power of one output of one run."""
    signal = np.sum(clean**2)
    return float(np.sum((noisy - clean) ** 2) / signal) if signal else 0.0


def main():
    script, model, inputs, kind, answer = sys.argv[1:]
    out = Path(answer).with_suffix(".onnx")
    copy = Path(answer).with_suffix(".float.onnx")  # the tool writes beside what it reads
    onnx.save(onnx.load(model), copy)
    sys.argv = [script, str(copy), inputs, str(out), "--float", kind]
    exported = {"__name__": "exported", "__doc__": "Exported."}
    exec(compile(Path(script).read_text(encoding="utf-8"), script, "exec"), exported)
    try:
        exported["main"]()
    except SystemExit as refusal:
        found = {"error": str(refusal)}
    else:
        runs = exported["samples_of"](inputs)
        clean, noisy = outputs(copy, runs), outputs(widened(out), runs)
        kinds = {node.name: node.op_type for node in onnx.load(out).graph.node}
        found = {
            "nsr": {o: float(np.mean(list(map(nsr, noisy[o], clean[o])))) for o in clean},
            "pairs": sum(kind == "QuantizeLinear" for kind in kinds.values()),
        }
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


main()
