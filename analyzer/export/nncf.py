# SPDX-License-Identifier: Apache-2.0
"""NNCF: a script that calls `nncf.quantize`, and its ignored scope as JSON.

`IgnoredScope(names=...)` wants the names of NNCF's own graph.  With the ONNX backend these are the
names of the nodes.  OpenVINO splits a layer's bias off and gathers groups of nodes into one
operation: the operation that makes an ONNX node's output has the node's name, those before it
`<name>/WithoutBiases` or numbers that change from run to run.  So the script looks them up in the
converted model, by the tensor names that OpenVINO keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from analyzer.errors import ExportError
from analyzer.export.asked import Asked, Layer, asked, file_name, is_own, left_out
from analyzer.export.header import header, lines
from analyzer.export.order import Files, Order
from analyzer.export.script import SAMPLES, assigned, filled, inputs, listed, model_argument
from analyzer.graph.view import GraphView
from analyzer.targets.base import Target
from analyzer.targets.openvino import OpenVino
from analyzer.targets.openvino.operations import operations

_TOOL = "nncf"
_OBSERVERS = ("mean_minmax", "minmax")  # by name; the first one is the default
_MIXED = "int8-mixed"
# the layer has a name of its own in OpenVINO's model where it has a bias
_BIASED = ("Conv", "Gemm")
# may be merged with those around them where one operand is constant
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_FOLLOWING = 3  # nodes that OpenVINO may merge with the one before them


def write(order: Order) -> Files:
    """Return `nncf/quantize.py` and `nncf/ignored_scope.json`.

    Raises:
        ExportError: where the plan quantizes nothing, or a layer has no name.
    """
    found = asked(order)
    floats = _floats(order, found)
    not_said = list(left_out(order, found, tool=_TOOL, observers=_OBSERVERS))
    return {
        "nncf/quantize.py": _script(order, found, floats, not_said),
        "nncf/ignored_scope.json": _scope(order, found, floats, not_said),
    }


def _floats(order: Order, found: Asked) -> tuple[Layer, ...]:
    if found.base != "float":
        return found.of("float")
    raise ExportError(
        f"The plan leaves all layers of {order.source.name!r} but {len(found.layers)} in float; "
        "NNCF is told what to leave in float, expected few layers.",
        "Set layers to fp32 instead of the whole model.",
    )


def _script(order: Order, found: Asked, floats: tuple[Layer, ...], not_said: list[str]) -> str:
    return filled(
        _TEXT,
        header=header(order, left_out=not_said, tool=_TOOL),
        model=model_argument(order, found),
        samples=SAMPLES.strip("\n"),
        inputs=assigned("INPUTS", inputs(order)),
        floats=assigned("FLOAT", _tensors(order, floats)),
        behind=assigned("BEHIND", _behind(order, floats)),
        nodes=assigned("NODES", _nodes(floats)),
        preset="MIXED" if order.proposal.setting.precision == _MIXED else "PERFORMANCE",
        imports="\n".join(_imports(order)),
        advanced="\n".join(f"        {line}" for line in _advanced(order)),
        subset=str(_calibrated_on(order)),
    )


def _advanced(order: Order) -> Iterator[str]:
    """Yield the arguments of AdvancedQuantizationParameters that the simulation stands on."""
    setting = order.proposal.setting
    if is_own(order, _TOOL):
        yield "# NNCF 3.4.0 ends in a KeyError with it; the simulation does without"
        yield "disable_channel_alignment=True,"
        yield f"disable_bias_correction={not _corrects_biases(order.target)},"
    if setting.observer == "minmax":
        yield "activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,"
    if setting.granularity == "tensor":
        yield "weights_quantization_params=QuantizationParameters(per_channel=False),"


def _imports(order: Order) -> Iterator[str]:
    setting = order.proposal.setting
    more = ", QuantizationParameters" if setting.granularity == "tensor" else ""
    yield (
        "from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters" + more
    )
    if setting.observer == "minmax":
        yield "from nncf.quantization.range_estimator import RangeEstimatorParametersSet"


def _corrects_biases(target: Target) -> bool:
    return not isinstance(target, OpenVino) or target.bias_correction


def _calibrated_on(order: Order) -> int:
    data = order.analysis.provenance.data
    return next((d.count for d in data if d.role == "calibration"), 300)


def _nodes(floats: tuple[Layer, ...]) -> list[str]:
    return listed([node for layer in floats for node in layer.nodes])


def _tensors(order: Order, floats: tuple[Layer, ...]) -> dict[str, list[str]]:
    """Return layer -> tensors that its operations make, in the file or after conversion."""
    ends = _ends(order)
    found = {}
    for layer in floats:
        more = [ends[node] for node in (layer.name, *layer.nodes) if node in ends]
        found[layer.name] = listed([*layer.tensors, *more])
    return found


def _behind(order: Order, floats: tuple[Layer, ...]) -> dict[str, list[str]]:
    """Return layer -> tensors that follow from its own, each read once, the nearest first."""
    view = GraphView(order.source.proto.graph)
    found = {}
    for layer in floats:
        tensors: list[str] = []
        tensor = next((t for t in layer.tensors if t in view.producer), "")
        while len(tensors) < _FOLLOWING and len(view.consumers.get(tensor, ())) == 1:
            tensor = view.nodes[view.consumers[tensor][0]].output[0]
            tensors.append(tensor)
        found[layer.name] = tensors
    return found


def _ends(order: Order) -> dict[str, str]:
    """Return node -> tensor behind what OpenVINO merges with it (a constant factor, say)."""
    found: dict[str, str] = {}
    ops = operations(order.source)
    waiting: list[str] = []
    for operation in ops:
        waiting.append(operation.node)
        if operation.outputs:
            found.update(dict.fromkeys(waiting, operation.outputs[0][0]))
            waiting = []
    return found


def _scope(order: Order, found: Asked, floats: tuple[Layer, ...], not_said: list[str]) -> str:
    ops = operations(order.source)
    named, by_script = [], []
    for layer in floats:
        names = _friendly(order, layer)
        made = sum(operation.node in layer.nodes for operation in ops)
        if layer.nodes == (layer.name,) and len(names) == made:
            named += names
        else:
            by_script.append(layer.name)
    told = {
        "about": lines(order, not_said, tool=_TOOL),
        "model": file_name(order, found),
        "onnx": {"names": _nodes(floats), "validate": True},
        "openvino": {"names": listed(named), "validate": True},
        "openvino_by_quantize.py_only": by_script,
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def _friendly(order: Order, layer: Layer) -> list[str]:
    """Return the names in OpenVINO's model that follow from that of the node.

    What makes an output of the graph is called as the output is.
    """
    view = GraphView(order.source.proto.graph)
    node = view.nodes.get(layer.name)
    if node is None or (node.op_type in _ARITHMETIC and any(map(view.is_constant, node.input))):
        return []
    end = next((tensor for tensor in node.output if tensor in view.outputs), layer.name)
    biased = node.op_type in _BIASED and len(node.input) > 2 and node.input[2]
    return [f"{layer.name}/WithoutBiases", end] if biased else [end]


_TEXT = '''\
$header"""Quantize with NNCF: python quantize.py MODEL.onnx INPUTS [OUT] [--backend onnx].

$model
INPUTS (.npz, .npy, or a folder of these) holds an array per input, prepared as the model wants
it, runs along the first axis.
OUT is an OpenVINO model (.xml) by default, an ONNX file with Q/DQ with --backend onnx.
"""

import argparse
import math
from pathlib import Path

import nncf
import numpy as np
$imports

# input -> type and shape of a run
$inputs
# layer that stays in float -> tensors that its operations make
$floats
# layer -> what follows, looked at where OpenVINO has merged the layer with that
$behind
# the nodes of these layers in the ONNX file
$nodes


$samples


def quantize(model, samples, names):
    """Return the quantized model; `names` are those of operations that stay in float."""
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.$preset,
        target_device=nncf.TargetDevice.CPU,
        subset_size=$subset,
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=names, validate=True),
        advanced_parameters=advanced(),
    )


def advanced():
    """Return what the plan was simulated with."""
    return AdvancedQuantizationParameters(
$advanced
    )


def names_in_openvino(model):
    """Return the operations that the float layers became, by the names NNCF knows them by.

    Between the tensors of an ONNX node and those before it, all operations are its own.
    """
    ops = model.get_ops()
    makers = {name: op for op in ops for out in op.outputs() for name in out.get_names()}
    by_name = {op.get_friendly_name(): op for op in ops}
    found = {}
    for layer, tensors in FLOAT.items():
        ends = [makers[tensor] for tensor in tensors if tensor in makers]
        ends = ends or [by_name[name] for name in [layer] if name in by_name]
        ends = ends or [makers[tensor] for tensor in BEHIND[layer] if tensor in makers][:1]
        if not ends:
            raise SystemExit(f"OpenVINO's model has no operation of {layer!r}: is it this model?")
        for end in ends:
            found.update((op.get_friendly_name(), None) for op in behind(end))
    return list(found)


def behind(end):
    """Yield `end` and the operations before it that make no tensor of the ONNX file."""
    waiting = [end]
    while waiting:
        op = waiting.pop()
        if op.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        yield op
        for port in op.inputs():
            source = port.get_source_output()
            if not source.get_names() and computes(source.get_node()):
                waiting.append(source.get_node())


def computes(op):
    """Tell whether an input of the model reaches this operation."""
    waiting, seen = [op], set()
    while waiting:
        here = waiting.pop()
        if here.get_type_name() == "Parameter":
            return True
        for port in here.inputs():
            source = port.get_source_output().get_node()
            if source.get_friendly_name() not in seen:
                seen.add(source.get_friendly_name())
                waiting.append(source)
    return False


def with_openvino(path, samples, out):
    """Convert, quantize and save."""
    import openvino as ov

    model = ov.convert_model(path)
    model.reshape({name: list(shape) for name, (_, shape) in INPUTS.items()})
    ov.save_model(quantize(model, samples, names_in_openvino(model)), out, compress_to_fp16=False)


def with_onnx(path, samples, out):
    """Quantize the ONNX model itself; another backend of NNCF, with rules of its own."""
    import onnx

    model = onnx.load(path)
    missing = sorted(set(NODES) - {node.name for node in model.graph.node})
    if missing:
        raise SystemExit(f"{path} has no nodes {missing}: is it the right file?")
    onnx.save(quantize(model, samples, NODES), out)


def main():
    """Answer the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--backend", choices=["openvino", "onnx"], default="openvino")
    given = parser.parse_args()
    run, suffix = (with_onnx, "onnx") if given.backend == "onnx" else (with_openvino, "xml")
    run(given.model, samples_of(given.inputs), given.out or f"model.int8.{suffix}")


if __name__ == "__main__":
    main()
'''
