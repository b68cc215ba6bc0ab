# SPDX-License-Identifier: Apache-2.0
"""Run an exported script with NNCF, then its model beside the float one.

    python nncf_exported.py SCRIPT.py MODEL.onnx INPUTS.npz BACKEND ANSWER.json

BACKEND is openvino or onnx.  The answer has "nsr": output -> noise-to-signal ratio, mean over the
samples, all computed in float32; or "error", where the script refuses.
"""

import json
import sys
from pathlib import Path

import nncf_ptq
import numpy as np


def main():
    script, model, inputs, backend, answer = sys.argv[1:]
    suffix = "onnx" if backend == "onnx" else "xml"
    out = Path(answer).with_suffix(f".{suffix}")
    sys.argv = [script, model, inputs, str(out), "--backend", backend]
    exported = {"__name__": "exported", "__doc__": "Exported."}
    exec(compile(Path(script).read_text(encoding="utf-8"), script, "exec"), exported)
    try:
        exported["main"]()
    except SystemExit as refusal:
        found = {"error": str(refusal)}
    else:
        samples = exported["samples_of"](inputs)
        run = of_onnx if backend == "onnx" else of_openvino
        found = {"nsr": run(model, str(out), samples)}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def of_openvino(model, out, samples):
    import openvino as ov

    core = ov.Core()
    plain = ov.convert_model(model)
    plain.reshape({name: list(array.shape) for name, array in samples[0].items()})
    config = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    pair = [core.compile_model(m, "CPU", config) for m in (plain, core.read_model(out))]

    def results(compiled, sample):
        values = compiled(sample)
        return {o.get_any_name(): np.array(values[i]) for i, o in enumerate(compiled.outputs)}

    return nncf_ptq.noise(results, *pair, samples)


def of_onnx(model, out, samples):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    pair = [ort.InferenceSession(m, options, ["CPUExecutionProvider"]) for m in (model, out)]
    names = [output.name for output in pair[0].get_outputs()]
    return nncf_ptq.noise(
        lambda s, x: dict(zip(names, s.run(names, x), strict=True)), *pair, samples
    )


main()
