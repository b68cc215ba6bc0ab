# SPDX-License-Identifier: Apache-2.0
"""16-bit activations as look-up tables: a calibrated plan goes in, a graph that reads tables out.

`quantization/optim/espdl_lut.py` and `executor/op/torch/espdl_lut.py` of esp-ppq 1.3.12.  The chip
keeps every 32nd value of the function and takes the nearest one.  esp-ppq's float reference reads
the tables too, so the rewritten graph stands for both branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Model, Quantizer, QuantPlan, Rounding
from analyzer.targets.base import F32

DOMAIN = "qanalyze.espdl"
STEP = 32
LOOKED_UP = frozenset(
    """
    Swish Sigmoid Tanh HardSwish HardSigmoid Elu Erf Gelu LeakyRelu Softplus Exp Log Sqrt Cos Sin
    Tan
    """.split()
)
_LOW, _HIGH = -32768.0, 32767.0
_NEAREST = 12582912.0  # 1.5 * 2^23: adding and taking it away leaves the nearest even integer


def read_tables(model: Model, plan: QuantPlan, rounding: Rounding) -> tuple[Model, list[str]]:
    """Replace every 16-bit function of one tensor by a table.

    Args:
        model: the graph of the plan; not modified.
        plan: calibrated; stays valid, since slots and tensors keep their names.
        rounding: of the chip.

    Returns:
        the graph, and the names of the nodes that read tables now.
    """
    view = GraphView(model.proto.graph)
    slots = {q.key: q for q in plan.quantizers}
    chosen = [n for n in plan.layers if _is_looked_up(model, view, slots, n)]
    if not chosen:
        return model, []
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    shapes, dtypes = dict(model.shapes), dict(model.dtypes)
    for node in proto.graph.node:
        if node.name in chosen:
            source, made = (_scale(slots[node.name, slot]) for slot in ("in0", "out0"))
            constants = [
                _table(model, node, source, made, rounding),
                np.array(source, np.float32),
                np.array(made, np.float32),
            ]
            for part, value in zip(("table", "in", "out"), constants, strict=True):
                name = f"{node.name}//lut//{part}"
                proto.graph.initializer.append(numpy_helper.from_array(value, name))
                shapes[name], dtypes[name] = value.shape, "float32"
                node.input.append(name)
            node.op_type, node.domain = "LUT", DOMAIN
            del node.attribute[:]
    proto.functions.append(_function(model, rounding))
    if not any(o.domain == DOMAIN for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    proto.ir_version = max(proto.ir_version, 8)
    kinds = {n: model.op_types.get(n, view.nodes[n].op_type) for n in chosen}
    op_types = {**model.op_types, **kinds}
    return replace(model, proto=proto, op_types=op_types, shapes=shapes, dtypes=dtypes), chosen


def _is_looked_up(
    model: Model, view: GraphView, slots: dict[tuple[str, str], Quantizer], name: str
) -> bool:
    node = view.nodes[name]
    source = slots.get((name, "in0"))
    return (
        model.op_types.get(name, node.op_type) in LOOKED_UP
        and len(node.input) == len(node.output) == 1
        and source is not None
        and source.bits == 16
        and source.scale is not None
        and (name, "out0") in slots
    )


def _scale(quantizer: Quantizer) -> float:
    return float(calibrated(quantizer)[0][0])


def _table(
    model: Model, node: onnx.NodeProto, in_scale: float, out_scale: float, rounding: Rounding
) -> F32:
    """Return the function at every 32nd level of the input, in levels of the output."""
    levels = np.arange(65536 // STEP + 1, dtype=np.float32) * STEP + np.float32(_LOW)
    graph = helper.make_graph(
        [helper.make_node(node.op_type, ["x"], ["y"], domain=node.domain)],
        "function",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, levels.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, levels.shape)],
    )
    graph.node[0].attribute.extend(node.attribute)
    proto = helper.make_model(graph, opset_imports=list(model.proto.opset_import))
    proto.ir_version = min(proto.ir_version, max(model.proto.ir_version, 8))
    proto.functions.extend(model.proto.functions)
    session = open_session(proto.SerializeToString())
    made = run(session, ["y"], {"x": to_value(levels * np.float32(in_scale))})["y"].numpy()
    with np.errstate(all="ignore"):  # Log and Sqrt of negative levels
        steps = made / np.float32(out_scale)
        steps = np.floor(steps + np.float32(0.5)) if rounding == "half_up" else np.rint(steps)
    # NaN becomes the lowest integer
    steps = np.clip(np.where(np.isnan(steps), _LOW, steps), _LOW, _HIGH)
    return np.asarray(steps, np.float32)


def _function(model: Model, rounding: Rounding) -> onnx.FunctionProto:
    """Return LUT(x, table, in, out): the nearest table entry to x, times the output's scale."""
    nodes = [
        helper.make_node("Div", ["x", "in"], ["steps"]),
        *_constants(("low", _LOW), ("high", _HIGH), ("zero", -_LOW), ("every", float(STEP))),
        *_constants(("half", 0.5), ("magic", _NEAREST)),
        helper.make_node("Max", ["steps", "low"], ["above"]),
        helper.make_node("Min", ["above", "high"], ["within"]),
        *_round("within", "level", rounding),
        helper.make_node("Add", ["level", "zero"], ["index"]),
        helper.make_node("Div", ["index", "every"], ["place"]),
        *_round("place", "nearest", rounding),
        helper.make_node("Cast", ["nearest"], ["entry"], to=onnx.TensorProto.INT32),
        helper.make_node("Gather", ["table", "entry"], ["found"]),
        helper.make_node("Mul", ["found", "out"], ["y"]),
    ]
    opset = next(o.version for o in model.proto.opset_import if o.domain == "")
    return helper.make_function(
        DOMAIN, "LUT", ["x", "table", "in", "out"], ["y"], nodes, [helper.make_opsetid("", opset)]
    )


def _constants(*values: tuple[str, float]) -> Iterator[onnx.NodeProto]:
    for name, value in values:
        tensor = numpy_helper.from_array(np.array(value, np.float32), name)
        yield helper.make_node("Constant", [], [name], value=tensor)


def _round(x: str, y: str, rounding: Rounding) -> list[onnx.NodeProto]:
    if rounding == "half_up":
        return [
            helper.make_node("Add", [x, "half"], [f"{y}_plus"]),
            helper.make_node("Floor", [f"{y}_plus"], [y]),
        ]
    return [
        helper.make_node("Add", [x, "magic"], [f"{y}_plus"]),
        helper.make_node("Sub", [f"{y}_plus", "magic"], [y]),
    ]
