# SPDX-License-Identifier: Apache-2.0
"""Small torch networks exported to ONNX, and quantized as an exported qconfig.py says.

    python torch_exported.py export FOLDER ANSWER.json
    python torch_exported.py quantize FOLDER ANSWER.json

`export` writes FOLDER/NAME.onnx and FOLDER/NAME.npz (samples `x`) of the networks of `torch_zoo`.
`quantize` takes FOLDER/cases.json, a list of [network, folder that holds pytorch/qconfig.py]; the
answer: for each of them {"nsr": of the output, mean over samples, "float": modules that stayed so}
or {"error": what the script says}.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch_zoo import IMAGE, NETWORKS

LAYERS = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)


def network(name):
    """Return a network with the same numbers at every call, and samples for it."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    return model.eval(), [torch.randn(IMAGE) * 2 for _ in range(8)]


def export(folder):
    for name in NETWORKS:
        model, samples = network(name)
        path = str(folder / f"{name}.onnx")
        torch.onnx.export(
            model, (samples[0],), path, dynamo=False, opset_version=17, input_names=["x"]
        )
        np.savez(folder / f"{name}.npz", x=np.stack([s.numpy() for s in samples]))
    return list(NETWORKS)


def quantized(name, script):
    model, samples = network(name)
    exported = {"__name__": "exported"}
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), exported)
    try:
        other = exported["quantize"](model, samples, reference=True)
    except ValueError as refusal:
        return {"error": str(refusal)}
    ratios = []
    with torch.no_grad():
        for sample in samples:
            x, y = (m(sample).double().numpy() for m in (model, other))
            ratios.append(np.sum((y - x) ** 2) / np.sum(x**2))
    rounded = [n for n, m in other.named_modules() if hasattr(m, "weight_scale")]
    float_layers = [
        n for n, m in other.named_modules() if isinstance(m, LAYERS) and n not in rounded
    ]
    return {"nsr": float(np.mean(ratios)), "float": float_layers}


def main():
    """Answer the command line."""
    warnings.simplefilter("ignore")
    what, folder, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "export":
        found = export(folder)
    else:
        cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
        found = [quantized(name, Path(where) / "pytorch" / "qconfig.py") for name, where in cases]
    answer.write_text(json.dumps(found), encoding="utf-8")


main()
