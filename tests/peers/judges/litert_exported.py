# SPDX-License-Identifier: Apache-2.0
"""Run exported scripts with ai-edge-quantizer, then their models beside the float ones.

    python litert_exported.py FOLDER ANSWER.json

FOLDER holds `cases.json`, a list of names, and for each NAME.json and NAME.npz as
`litert_plans.py` takes them, NAME.inputs.npz (what the script is given), and
NAME.exported/quantize.py.  The answer: name -> {"nsr": output -> noise-to-signal ratio, mean over
the samples; "types": how many tensors have which element type; or "error", where the script
refuses}.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from litert_plans import laid_out, run
from tflite_writer import Writer


def answer(folder, name):
    graph = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz") as data:
        arrays = {k[2:]: data[k] for k in data.files if k.startswith("c:")}
    path, out = folder / f"{name}.tflite", folder / f"{name}.int8.tflite"
    path.write_bytes(Writer(graph, arrays).write())
    script = folder / f"{name}.exported" / "quantize.py"
    sys.argv = [str(script), str(path), str(folder / f"{name}.inputs.npz"), str(out)]
    exported = {"__name__": "exported", "__doc__": "Exported.", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), exported)
    try:
        exported["main"]()
    except SystemExit as refusal:
        return {"error": str(refusal)}
    ratios = {output: [] for output in graph["outputs"]}
    for sample in exported["samples_of"](folder / f"{name}.inputs.npz"):
        fed = {n: laid_out(array) for n, array in sample.items()}
        plain, rounded = (
            run(m.read_bytes(), graph["inputs"], graph["outputs"], fed) for m in (path, out)
        )
        for output in ratios:
            x, y = np.array(plain[output], np.float64), np.array(rounded[output], np.float64)
            signal = np.sum(x**2)
            ratios[output].append(float(np.sum((y - x) ** 2) / signal) if signal else 0.0)
    details = Interpreter(model_path=str(out)).get_tensor_details()
    types = Counter(np.dtype(d["dtype"]).name for d in details)
    return {"nsr": {o: float(np.mean(r)) for o, r in ratios.items()}, "types": types}


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    names = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    found = {name: answer(folder, name) for name in names}
    out.write_text(json.dumps(found), encoding="utf-8")


main()
