# SPDX-License-Identifier: Apache-2.0
"""Quantize a model with torch FX and tell which grid each input of each ONNX node arrives on.

    python torch_fx.py MODEL.onnx SAMPLES.npz BACKEND OBSERVER FLOAT_LAYERS ANSWER.json

MODEL.onnx is rebuilt by `torch_from_onnx`; SAMPLES.npz holds one array per graph input, samples
along a new first axis.  BACKEND is x86 or qnnpack, OBSERVER histogram or minmax, FLOAT_LAYERS a
comma-separated list of ONNX nodes to leave in float.  The answer:

    edges     [[node, input, bits, signed, scales, zero points], ...]; a graph output is ["", name]
    outputs   path of an .npz beside the answer: `float_K` and `quantized_K` per output K, of
              every sample, from the float and the reference quantized model
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.ao.quantization import MinMaxObserver, QConfig, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_to_reference_fx, prepare_fx
from torch_from_onnx import Rebuilt


def mapping_of(backend, observer):
    """Return the default mapping; `reshape` treated as `view`, the commoner form."""
    mapping = get_default_qconfig_mapping(backend)
    usual = mapping.global_qconfig
    if observer == "minmax":
        narrow = backend == "x86"
        given = QConfig(MinMaxObserver.with_args(reduce_range=narrow), usual.weight)
        for kind, qconfig in list(mapping.object_type_qconfigs.items()):
            if qconfig.activation is usual.activation:
                mapping.set_object_type(kind, QConfig(given.activation, qconfig.weight))
        mapping.set_global(given)
        usual = given
    return mapping.set_object_type("reshape", usual)


def quantize(module, samples, backend, observer, float_modules=()):
    """Return the reference model, calibrated on all samples in order."""
    mapping = mapping_of(backend, observer)
    for name in float_modules:
        mapping.set_module_name(name, None)
    prepared = prepare_fx(copy.deepcopy(module), mapping, tuple(samples[0]))
    with torch.no_grad():
        for sample in samples:
            prepared(*sample)
    return convert_to_reference_fx(prepared)


def grid_of(model, node):
    """Return [bits, signed, scales, zero points] of a dequantized value, None for a float one."""
    if node.op != "call_method" or node.target != "dequantize":
        return None
    _, scale, zero, dtype = node.args[0].args
    values = (getattr(model, n.target) for n in (scale, zero))
    return [8, dtype == torch.qint8, *(v.reshape(-1).tolist() for v in values)]


def weight_grid(module):
    """Return the grid of a reference layer's weight, None where it is a float layer."""
    layer = module[0] if isinstance(module, torch.nn.Sequential) else module
    if not hasattr(layer, "weight_scale"):
        return None
    scales, zeros = layer.weight_scale.reshape(-1), layer.weight_zero_point.reshape(-1)
    return [8, True, scales.tolist(), zeros.tolist()]


def tensors(node):
    """Return the tensor arguments of an fx node, lists flattened."""
    found = []
    for argument in [*node.args, *node.kwargs.values()]:
        several = argument if isinstance(argument, (list, tuple)) else [argument]
        found += [a for a in several if isinstance(a, torch.fx.Node)]
    return found


def edges(model, rebuilt):
    """Return the edges of the reference model that are quantized."""
    found = []
    modules = dict(model.named_modules())
    for node in model.graph.nodes:
        if node.name in rebuilt.reads:
            slots = rebuilt.reads[node.name]
            given = tensors(node)
            assert len(slots) == len(given), (node.name, slots, given)
            for places, argument in zip(slots, given, strict=True):
                grid = grid_of(model, argument)
                found += [[name, index, *grid] for name, index in places if grid]
            if node.name in rebuilt.weights:
                grid = weight_grid(modules[node.target])
                found += [[*rebuilt.weights[node.name], *grid]] if grid else []
        elif node.op == "output":
            for name, argument in zip(rebuilt.outputs, node.args[0], strict=True):
                grid = grid_of(model, argument)
                found += [["", name, *grid]] if grid else []
    return found


def outputs(model, samples, prefix):
    """Return every output of all samples, stacked."""
    with torch.no_grad():
        rows = [model(*sample) for sample in samples]
    return {f"{prefix}_{k}": np.stack([r[k].numpy() for r in rows]) for k in range(len(rows[0]))}


def main():
    """Answer the command line."""
    warnings.simplefilter("ignore")
    path, data, backend, observer, named, answer = sys.argv[1:]
    rebuilt = Rebuilt(onnx.load(path))
    arrays = list(np.load(data).values())
    samples = [[torch.from_numpy(a[k]) for a in arrays] for k in range(len(arrays[0]))]
    wanted = set(filter(None, named.split(",")))
    layers = [
        node.target
        for node in rebuilt.graph.nodes
        if node.op == "call_module" and rebuilt.reads[node.name][0][0][0] in wanted
    ]
    start = time.perf_counter()
    model = quantize(rebuilt.module, samples, backend, observer, layers)
    elapsed = time.perf_counter() - start
    results = {**outputs(rebuilt.module, samples, "float"), **outputs(model, samples, "quantized")}
    beside = Path(answer).with_suffix(".npz")
    np.savez(beside, **results)
    found = {"edges": edges(model, rebuilt), "outputs": str(beside), "elapsed_s": elapsed}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
