# SPDX-License-Identifier: Apache-2.0
"""Writing graphs: a part of the model goes in, once or as several branches, with quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from analyzer.graph.view import GraphView, captured, subgraphs
from analyzer.quant.fake import calibrated, fake_quantize
from analyzer.records import Model, Quantizer

MS = "com.microsoft"
# grids that QuantizeLinear has a type for
_GRIDS: dict[tuple[int, int], str] = {
    (-128, 127): "int8",
    (0, 255): "uint8",
    (-32768, 32767): "int16",
    (0, 65535): "uint16",
}


_BROADCASTING_MAX = 8  # opset from which Max and Min broadcast


class GraphBuilder:
    """Collects the nodes of a new graph that reads and writes tensors of `model`."""

    def __init__(self, model: Model, view: GraphView) -> None:
        self.model = model
        self.view = view
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: dict[str, onnx.ValueInfoProto] = {}
        self.outputs: dict[str, onnx.ValueInfoProto] = {}

    def input(self, name: str, like: str) -> str:
        """Declare graph input `name` of the type and shape of model tensor `like`."""
        if name not in self.inputs:
            self.inputs[name] = self._declare(name, like)
        return name

    def output(self, name: str, like: str) -> None:
        """Declare `name` a graph output of the type and shape of model tensor `like`."""
        if name not in self.outputs:
            self.outputs[name] = self._declare(name, like)

    def initializer(self, tensor: str) -> str:
        """Bring an initializer of the model in."""
        self.constants.setdefault(tensor, self.view.initializers[tensor])
        return tensor

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Bring an array in under `name`."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def add(
        self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        """Add one node with one output and return the output's name."""
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def fake_quantize(self, x: str, quantizer: Quantizer, output: str) -> str:
        """Add the fake-quantization of `x` by a calibrated `quantizer`.

        Half-even grids of up to 16 bits are a com.microsoft QuantizeLinear/DequantizeLinear pair
        (any opset, equal to numpy to the bit, but that NaN becomes the lowest level, as on the
        device); half-up ones are written out in float32.
        """
        grid = _GRIDS.get((quantizer.qmin, quantizer.qmax))
        if quantizer.rounding == "half_even" and grid is not None:
            scale, zero = calibrated(quantizer)
            per_channel = scale.size > 1
            values = (scale.astype(np.float32), zero.astype(grid))
            names = [
                self.constant(f"{output}//{part}", v if per_channel else v.reshape(()))
                for part, v in zip(("scale", "zero"), values, strict=True)
            ]
            axis = {"axis": quantizer.axis} if per_channel else {}
            q = self.add("QuantizeLinear", [x, *names], f"{output}//q", MS, **axis)
            return self.add("DequantizeLinear", [q, *names], output, MS, **axis)
        return self._written_out(x, quantizer, output)

    def _written_out(self, x: str, quantizer: Quantizer, output: str) -> str:
        step, zero = calibrated(quantizer)
        rank = len(self.model.shapes[quantizer.tensor])
        shape = [1] * rank
        if quantizer.axis is not None and step.size > 1:
            shape[quantizer.axis] = step.size

        def constant(part: str, values: npt.NDArray[Any]) -> str:
            array = values.astype(np.float32)
            return self.constant(
                f"{output}//{part}", array.reshape(shape) if array.size > 1 else array.reshape(())
            )

        scale = constant("scale", step)
        x = self.add("Div", [x, scale], f"{output}//steps")
        if quantizer.rounding == "half_up":
            x = self.add("Add", [x, constant("half", np.array(0.5))], f"{output}//plus")
            x = self.add("Floor", [x], f"{output}//round")
        else:
            # 1.5 * 2^23: adding and taking it away leaves the nearest integer, ties to even
            magic = constant("magic", np.array(12582912.0))
            x = self._clamp(
                x, np.array(-4194304.0), np.array(4194304.0), f"{output}//near", constant
            )
            x = self.add("Add", [x, magic], f"{output}//plus")
            x = self.add("Sub", [x, magic], f"{output}//round")
        low, high = quantizer.qmin - zero, quantizer.qmax - zero
        return self.add(
            "Mul", [self._clamp(x, low, high, f"{output}//levels", constant), scale], output
        )

    def _clamp(
        self,
        x: str,
        low: npt.NDArray[Any],
        high: npt.NDArray[Any],
        output: str,
        constant: Callable[[str, npt.NDArray[Any]], str],
    ) -> str:
        """Cut `x` to bounds of one value or one per channel; NaN stays."""
        if self.model.opset < _BROADCASTING_MAX and low.size == 1:
            return self.add("Clip", [x], output, min=float(low.item()), max=float(high.item()))
        names = [
            constant(f"{output.rpartition('//')[2]}//{side}", v)
            for side, v in (("low", low), ("high", high))
        ]
        if self.model.opset < _BROADCASTING_MAX:
            # max(x, a) = a + relu(x - a), exact for the integers that come here
            x = self.add("Sub", [x, names[0]], f"{output}//above")
            x = self.add(
                "Add", [self.add("Relu", [x], f"{output}//relu"), names[0]], f"{output}//ge"
            )
            x = self.add("Sub", [names[1], x], f"{output}//below")
            return self.add("Sub", [names[1], self.add("Relu", [x], f"{output}//rest")], output)
        return self.add("Min", [self.add("Max", [x, names[0]], f"{output}//ge"), names[1]], output)

    def serialize(self) -> bytes:
        """Return the graph as the bytes of a ModelProto."""
        graph = helper.make_graph(
            self.nodes,
            "part",
            list(self.inputs.values()),
            list(self.outputs.values()),
            list(self.constants.values()),
        )
        opsets = list(self.model.proto.opset_import)
        if not any(o.domain == MS for o in opsets):
            opsets.append(helper.make_opsetid(MS, 1))
        proto = helper.make_model(graph, opset_imports=opsets)
        proto.ir_version = min(proto.ir_version, max(self.model.proto.ir_version, 4))
        proto.functions.extend(self.model.proto.functions)
        return bytes(proto.SerializeToString())

    def _declare(self, name: str, like: str) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.model.dtypes[like]))
        return helper.make_tensor_value_info(name, kind, list(self.model.shapes[like]))


def slots_by_node(quantizers: Iterable[Quantizer]) -> dict[str, list[Quantizer]]:
    """Group the active quantizers by the node they sit on."""
    found: dict[str, list[Quantizer]] = {}
    for quantizer in quantizers:
        if quantizer.active:
            found.setdefault(quantizer.node, []).append(quantizer)
    return found


def in_execution_order(view: GraphView, quantizers: Iterable[Quantizer]) -> tuple[Quantizer, ...]:
    """Sort quantizers by the node they sit on, then by slot."""
    order = {name: i for i, name in enumerate(view.nodes)}
    return tuple(sorted(quantizers, key=lambda q: (order[q.node], q.slot)))


def quantized_constant(view: GraphView, quantizer: Quantizer) -> npt.NDArray[np.float32]:
    """Return what a calibrated quantizer makes of its constant: as stored, else rounded here."""
    if quantizer.stored is not None:
        return quantizer.stored
    return fake_quantize(view.array(quantizer.tensor).astype(np.float32), quantizer)


def emit(
    builder: GraphBuilder,
    nodes: Iterable[onnx.NodeProto],
    *,
    prefix: str,
    outside: Callable[[str], str],
    slots: Mapping[str, Sequence[Quantizer]],
) -> dict[str, str]:
    """Write `nodes` into `builder` as one branch.

    Args:
        builder: takes the nodes.
        nodes: in topological order.
        prefix: put before every tensor and node name of this branch ("" for the plain one).
        outside: tells the name in the new graph of a tensor that no node here makes.
        slots: active quantizers by node.

    Returns:
        model tensor -> its name in the new graph, behind its output quantizer if it has one.
    """
    made: dict[str, str] = {}
    view = builder.view

    def resolve(tensor: str) -> str:
        if not tensor:
            return ""
        if tensor in made:
            return made[tensor]
        if view.is_constant(tensor):
            return builder.initializer(tensor)
        return outside(tensor)

    for node in nodes:
        quantizers = {q.slot: q for q in slots.get(node.name, ())}
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        for index, tensor in enumerate(node.input):
            quantizer = quantizers.get(f"in{index}")
            if quantizer is None:
                copy.input[index] = resolve(tensor)
            elif view.is_constant(tensor):
                copy.input[index] = _quantized_constant(builder, quantizer)
            else:
                copy.input[index] = builder.fake_quantize(
                    resolve(tensor), quantizer, f"{prefix}{node.name}//in{index}"
                )
        names = {name: resolve(name) for name in captured(node)}
        if any(old != new for old, new in names.items()):
            for body in subgraphs(copy):
                _rename_captured(body, names)
        for index, tensor in enumerate(node.output):
            if tensor:
                copy.output[index] = made[tensor] = prefix + tensor
        if any(q.replaces_node for q in quantizers.values()):
            copy = helper.make_node("Identity", copy.input[:1], copy.output, name=copy.name)
        builder.nodes.append(copy)
        for index, tensor in enumerate(node.output):
            quantizer = quantizers.get(f"out{index}")
            if tensor and quantizer is not None:
                made[tensor] = builder.fake_quantize(
                    prefix + tensor, quantizer, f"{prefix}{tensor}//out{index}"
                )
    return made


def _quantized_constant(builder: GraphBuilder, quantizer: Quantizer) -> str:
    name = f"{quantizer.node}//{quantizer.slot}//constant"
    if name not in builder.constants:
        builder.constant(name, quantized_constant(builder.view, quantizer))
    return name


def _rename_captured(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    local = {i.name for i in body.input} | {t.name for t in body.initializer}
    for node in body.node:
        for index, name in enumerate(node.input):
            if name in names and name not in local:
                node.input[index] = names[name]
        for inner in subgraphs(node):
            _rename_captured(inner, {k: v for k, v in names.items() if k not in local})
        local.update(node.output)


def is_float(model: Model, tensor: str) -> bool:
    """Tell whether `tensor` of a bound model holds float32."""
    return model.dtypes.get(tensor) == "float32"


def noisy_outputs(model: Model, view: GraphView) -> tuple[str, ...]:
    """Return the graph outputs that can carry noise: of float32, and made by a node."""
    return tuple(t for t in view.outputs if is_float(model, t) and t in view.producer)
