# SPDX-License-Identifier: Apache-2.0
"""Run a quantized ONNX model with OpenVINO beside its float one.

    python openvino_runs.py FLOAT.onnx QUANTIZED.onnx INPUTS.npz ANSWER.json

The answer has "nsr": output -> noise-to-signal ratio, mean over the samples, quantizers
simulated in float32.
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov


def main():
    plain, quantized, inputs, answer = sys.argv[1:]
    core = ov.Core()
    # quantizers as they stand, no integer kernels
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    models = [
        core.compile_model(core.read_model(path), "CPU", exact) for path in (plain, quantized)
    ]
    names = [output.any_name for output in models[0].outputs]
    arrays = np.load(inputs)
    ratios = []
    for index in range(len(arrays[arrays.files[0]])):
        feeds = {name: arrays[name][index : index + 1] for name in arrays.files}
        wanted, found = ([model(feeds)[name] for name in names] for model in models)
        ratios.append(
            [
                float(np.sum((y - x) ** 2, dtype=float) / np.sum(x**2, dtype=float))
                for x, y in zip(wanted, found, strict=True)
            ]
        )
    nsr = dict(zip(names, np.mean(ratios, axis=0).tolist(), strict=True))
    Path(answer).write_text(json.dumps({"nsr": nsr}), encoding="utf-8")


if __name__ == "__main__":
    main()
