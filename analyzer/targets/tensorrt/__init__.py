# SPDX-License-Identifier: Apache-2.0
"""TensorRT with explicit Q/DQ, as NVIDIA ModelOpt writes it: int8, symmetric, per-channel weights.

Imitates `modelopt.onnx.quantization.quantize(..., quantize_mode="int8")` of nvidia-modelopt 0.47
with its defaults (no autotune, no simplification, Concat elimination).  TensorRT runs such a model
as the Q/DQ pairs say.  Its implicit quantization, where it finds the ranges itself or reads them
from a calibration cache and chooses the precision of each layer by timing, is something else:
which layers run in INT8 then is known only to the built engine, so it is not imitated.

ModelOpt looks for groups of nodes that TensorRT merges into one kernel and quantizes what enters
them; within a group nothing is, nor are biases.  The rest of the network becomes FP16 by default
(`high_precision_dtype`), scales included: the scales here are rounded to FP16 likewise, all other
arithmetic is simulated in FP32, whose difference to FP16 is small against INT8 noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.quant.modelopt_observers import ModelOptEntropy
from analyzer.quant.observers import MinMax, extremes
from analyzer.quant.observers import Observer as RangeObserver
from analyzer.records import Finding, Model, Observer, Quantizer, QuantPlan, Setting
from analyzer.targets.base import COMPUTING, F32, F64, I64, Target
from analyzer.targets.tensorrt.choice import Choice, choose, too_small
from analyzer.targets.tensorrt.net import Net, Origin
from analyzer.targets.tensorrt.quirks import find_quirks
from analyzer.targets.tensorrt.slots import quantizers

_LARGEST = 127
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
_FP16 = np.finfo(np.float16)
_ORIGIN = "qanalyze.tensorrt.constants"  # key of the metadata that `rewrite` leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRt(Target):
    """Explicit Q/DQ of ModelOpt.

    Attributes:
        fp16_scales: scales are stored as FP16, as ModelOpt's `high_precision_dtype="fp16"` does.
    """

    name: str = "tensorrt"
    summary: str = "TensorRT with explicit Q/DQ as NVIDIA ModelOpt's ONNX PTQ writes it, int8"
    precisions: tuple[str, ...] = ("int8", "fp16", "fp32")
    observers: tuple[Observer, ...] = ("entropy", "minmax")
    fp16_scales: bool = True
    folds_norms: bool = False

    def rewrite(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Note which constants are initializers: ModelOpt treats Constant nodes otherwise."""
        graph = proto.graph
        kept = {
            "initializers": [t.name for t in graph.initializer],
            "nodes": [n.output[0] for n in graph.node if n.op_type == "Constant"],
        }
        proto.metadata_props.add(key=_ORIGIN, value=json.dumps(kept))
        return proto, ()

    def prepare(self, model: Model) -> Model:
        """Take the note out of the proto again: it would tell equal graphs apart."""
        properties = model.proto.metadata_props
        for index in reversed(range(len(properties))):
            if properties[index].key == _ORIGIN:
                del properties[index]
        return model

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Find the groups, choose nodes, and quantize what they read.

        A layer set to fp16 or fp32 is one of ModelOpt's `nodes_to_exclude`.  With such a default
        precision, the layers set to int8 are its `nodes_to_quantize`.
        """
        net = Net(model, _origin(model))
        left = {n for n, precision in setting.table.items() if precision != "int8"}
        excluded = too_small(net, model) | left
        if setting.precision in (None, "int8"):
            choice = choose(net, excluded)
        else:
            choice = Choice(frozenset(setting.table) - excluded)
        found = quantizers(model, net, choice, setting.observer or self.observers[0])
        carrying = {q.node for q in found}
        reading = {name for q in found for name in net.readers.get(q.tensor, ())}
        layers = tuple(
            node.name
            for node in model.proto.graph.node
            if node.name in carrying or (node.name in choice.nodes and node.name in reading)
        )
        types = {node.name: node.op_type for node in model.proto.graph.node}
        return QuantPlan(
            target=self.name,
            layers=layers,
            computing=frozenset(n for n in layers if types[n] in COMPUTING),
            precision=dict.fromkeys(layers, "int8"),
            quantizers=found,
            default_precision=setting.precision or self.precisions[0],
        )

    def make_observer(self, quantizer: Quantizer) -> RangeObserver:
        """Return the observer of onnxruntime's calibrator that ModelOpt uses, as it changed it."""
        if quantizer.observer == "entropy":
            return ModelOptEntropy(tensors=len(quantizer.observes) or 1)
        return MinMax()

    def constant_range(self, x: F32, quantizer: Quantizer) -> tuple[F64, F64]:
        """Return the range; what a Constant node made is observed as an activation is."""
        if quantizer.observer == "minmax":
            return extremes(x, quantizer.axis)
        observer = self.make_observer(quantizer)
        for phase in range(observer.phases):
            observer.update(x, phase)
        found = observer.result()
        return np.array([found.lo]), np.array([found.hi])

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return symmetric scales: the largest magnitude lies on level 127.

        float32 as `compute_scale_zp` of onnxruntime's `quant_utils.py`, then FP16 as
        `_convert_initializer_data` of ModelOpt's `autocast/precisionconverter.py`.
        """
        step = np.maximum(np.abs(lo), np.abs(hi)) / _LARGEST
        step = np.where(step < _FLOAT32_TINY, 1.0, step).astype(np.float32)
        if self.fp16_scales:
            bounded = np.clip(step, _FP16.smallest_subnormal, _FP16.max)
            step = bounded.astype(np.float16)
        return step.astype(np.float64), np.zeros(step.shape, np.int64)

    def findings(self, model: Model, plan: QuantPlan) -> Sequence[Finding]:
        """Return the quirks of ModelOpt that the plan runs into."""
        return find_quirks(model, plan)


TENSORRT = TensorRt(
    # Rough.  Peak rates of tensor cores: 624 tera-operations in INT8 on an A100, 312 in FP16, 156
    # in TF32.
    cost_factors={"int8": 1.0, "fp16": 2.0, "fp32": 4.0},
)


def _origin(model: Model) -> Origin:
    kept = model.metadata.get(_ORIGIN)
    if kept is None:
        return Origin()
    lists = json.loads(kept)
    return Origin(frozenset(lists["initializers"]), frozenset(lists["nodes"]), known=True)
