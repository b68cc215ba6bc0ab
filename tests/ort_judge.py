# SPDX-License-Identifier: Apache-2.0
"""Asks onnxruntime's own quantizer what it would do, and compares our plan with that.

Compared is what every node reads: its input slots, and the graph outputs.  A slot holds the scale,
zero point and type of the DequantizeLinear in front of it, or nothing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize,
    quantize_static,
)
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
from onnxruntime.quantization.execution_providers.qnn.mixed_precision_overrides_utils import (
    MixedPrecisionTensorQuantOverridesFixer,
)
from onnxruntime.quantization.tensor_quant_overrides import TensorQuantOverridesHelper

from analyzer.calibrate import calibrate
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Model, QuantPlan, Setting
from analyzer.targets import get_target

Q = QuantType
TYPES = {  # precision -> types of activations and weights
    "int8": (Q.QInt8, Q.QInt8),
    "u8s8": (Q.QUInt8, Q.QInt8),
    "u8u8": (Q.QUInt8, Q.QUInt8),
    "s16s8": (Q.QInt16, Q.QInt8),
    "u16s8": (Q.QUInt16, Q.QInt8),
    "a8w8": (Q.QUInt8, Q.QUInt8),
    "a16w8": (Q.QUInt16, Q.QUInt8),
}
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_TYPE_NAMES = {
    (8, True): "int8", (8, False): "uint8", (16, True): "int16", (16, False): "uint16",
    (32, True): "int32",
}  # fmt: skip

Slot = tuple[str, str]  # node and "in0" ..., or "" and a graph output
Grid = tuple[np.ndarray, np.ndarray, str]  # scale, zero point, type


class Reader(CalibrationDataReader):
    """Samples, as onnxruntime wants to be handed them."""

    def __init__(self, samples):
        self.samples = iter([dict(sample) for sample in samples])

    def get_next(self):
        return next(self.samples, None)


@dataclass(frozen=True)
class Agreement:
    """How far a plan is that of the real quantizer.

    Attributes:
        slots: read with a quantizer in either.
        differences: one line per slot that is placed or typed differently, or whose zero point
            or scale (by more than 1e-6) is another.
        worst_scale: largest relative difference of a scale.
        error: largest relative L2 error of a graph output, ours against theirs, first sample; NaN
            where what they wrote does not load (per channel below opset 13).
    """

    slots: int
    differences: tuple[str, ...]
    worst_scale: float
    error: float


def agreement(model: Model, samples, target: str, setting: Setting, *, run=True) -> Agreement:
    """Quantize a bound model both ways and compare."""
    graph, plan = our_plan(model, samples, target, setting)
    quantized = real_quantizer(graph, samples, target, setting)
    slots, worst, differences = 0, 0.0, []
    theirs, ours = real_slots(quantized), our_slots(graph, plan)
    for slot in ours.keys() & theirs.keys():  # a merged Relu is gone there
        mine, real = ours[slot], theirs[slot]
        if mine is None and real is None:
            continue
        slots += 1
        if mine is None or real is None:
            differences.append(f"{slot}: {'not' if mine is None else 'only'} quantized by us")
        elif mine[2] != real[2] or mine[0].size != real[0].size:
            differences.append(f"{slot}: {mine[2]}[{mine[0].size}] is {real[2]}[{real[0].size}]")
        else:
            error = float(np.max(np.abs(mine[0] - real[0]) / real[0]))
            worst = max(worst, error)
            if error > 1e-6 or not np.array_equal(mine[1], real[1]):
                worst_at = int(np.argmax(np.abs(mine[0] - real[0]) / real[0]))
                pairs = [(g[0][worst_at], g[1][worst_at]) for g in (mine, real)]
                differences.append(f"{slot}[{worst_at}]: {pairs[0]} is {pairs[1]}")
    loads = any(o.domain == "" and o.version >= 13 for o in quantized.opset_import)
    granularity = setting.granularity or get_target(target).granularities[0]
    error = 0.0 if loads or granularity == "tensor" else np.nan
    if run and error == 0:
        outputs = zip(
            simulated(graph, plan, samples[0]), executed(quantized, samples[0]), strict=True
        )
        error = max(relative_error(mine, real) for mine, real in outputs)
    return Agreement(slots, tuple(differences), worst, error)


def our_plan(model: Model, samples, target: str, setting: Setting) -> tuple[Model, QuantPlan]:
    """Place and calibrate."""
    rules = get_target(target)
    graph, plan = place(model, rules, setting)
    return graph, calibrate(graph, plan, rules, samples)


def real_quantizer(model: Model, samples, target: str, setting: Setting) -> onnx.ModelProto:
    """Run `quantize_static`, or QNN's configuration of it, as `setting` asks."""
    rules = get_target(target)
    precision = setting.precision or rules.precisions[0]
    activation, weight = TYPES[precision]
    excluded = [n for n, p in setting.table.items() if p == "fp32"]
    per_channel = (setting.granularity or rules.granularities[0]) == "channel"
    method = METHODS[setting.observer or "minmax"]
    overrides = {
        tensor: [{"quant_type": TYPES[setting.table[node.name]][0]}]
        for node in model.proto.graph.node
        if setting.table.get(node.name, "fp32") not in ("fp32", precision)
        for tensor in node.output
        if model.dtypes[tensor] == "float32"
    }
    with tempfile.TemporaryDirectory() as name, _quiet():
        source, result = Path(name) / "float.onnx", Path(name) / "quantized.onnx"
        source.write_bytes(model.proto.SerializeToString())
        if target == "qnn":
            config = get_qnn_qdq_config(
                source, Reader(samples), method, activation, weight, per_channel,
                init_overrides=overrides or None, nodes_to_exclude=excluded or None,
            )  # fmt: skip
            quantize(source, result, config)
        else:
            options: dict[str, Any] = {}
            if overrides:
                helper = TensorQuantOverridesHelper(overrides)
                MixedPrecisionTensorQuantOverridesFixer.create_from_model(
                    helper, onnx.load(source), activation
                ).apply(activation, False)
                options["TensorQuantOverrides"] = helper.get_dict()
            quantize_static(
                source, result, Reader(samples), per_channel=per_channel,
                activation_type=activation, weight_type=weight, nodes_to_exclude=excluded,
                calibrate_method=method, extra_options=options,
            )  # fmt: skip
        return onnx.load(result)


@contextlib.contextmanager
def _quiet():
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def real_slots(quantized: onnx.ModelProto) -> dict[Slot, Grid | None]:
    """Return what the nodes of a QDQ model read."""
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    makers = {t: node for node in quantized.graph.node for t in node.output}

    def grid(tensor):
        node = makers.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        scale, zero = (np.atleast_1d(constants[name]) for name in node.input[1:3])
        return scale.astype(np.float64), zero.astype(np.int64), str(zero.dtype)

    found = {
        (node.name, f"in{index}"): grid(tensor)
        for node in quantized.graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        for index, tensor in enumerate(node.input)
    }
    return found | {("", o.name): grid(o.name) for o in quantized.graph.output}


def our_slots(model: Model, plan: QuantPlan) -> dict[Slot, Grid | None]:
    """Return what the nodes of a plan read: the quantizer there, or at the producer."""
    view = GraphView(model.proto.graph)
    active = {q.key: q for q in plan.quantizers if q.active}

    def grid(node, slot, tensor):
        found = active.get((node, slot))
        if found is None and tensor in view.producer:
            maker = view.nodes[view.producer[tensor]]
            found = active.get((maker.name, f"out{list(maker.output).index(tensor)}"))
        if found is None:
            return None
        return found.scale, found.zero_point, _TYPE_NAMES[found.bits, found.signed]

    slots = {
        (node.name, f"in{index}"): grid(node.name, f"in{index}", tensor)
        for node in view.nodes.values()
        for index, tensor in enumerate(node.input)
    }
    return slots | {("", tensor): grid("", "", tensor) for tensor in view.outputs}


def simulated(model: Model, plan: QuantPlan, feeds) -> list[np.ndarray]:
    """Return the graph outputs with everything quantized, by our own Q/DQ nodes."""
    view = GraphView(model.proto.graph)
    builder = GraphBuilder(model, view)
    made = emit(
        builder, model.proto.graph.node, prefix="", outside=lambda t: builder.input(t, t),
        slots=slots_by_node(plan.quantizers),
    )  # fmt: skip
    for tensor in view.outputs:
        builder.output(made[tensor], tensor)
    session = open_session(builder.serialize(), optimize=False)
    return list(session.run([made[t] for t in view.outputs], dict(feeds)))


def executed(quantized: onnx.ModelProto, feeds) -> list[np.ndarray]:
    """Return the outputs of a QDQ model that is run as it stands, without fusion."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(
        quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))


def relative_error(mine: np.ndarray, real: np.ndarray) -> float:
    """Return |mine - real| / |real|, L2; 0 for two silences, and for what holds no floats."""
    if mine.dtype.kind != "f":
        return 0.0
    noise, signal = (float(np.linalg.norm(x.ravel())) for x in (mine - real, real))
    return noise / max(signal, 1e-30)


def bound_model(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], folder: Path) -> Model:
    """Load a model as a run does, with the shapes of its inputs."""
    path = folder / "random.onnx"
    path.write_bytes(proto.SerializeToString())
    return bind_shapes(load_model(path), {name: x.shape for name, x in feeds.items()})
