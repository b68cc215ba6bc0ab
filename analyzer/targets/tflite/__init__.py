# SPDX-License-Identifier: Apache-2.0
"""Full-integer TFLite models: by the TFLite converter, and by ai-edge-quantizer.

Both quantize activations asymmetrically to int8, weights symmetrically per output channel and
biases on the grid of the accumulator.  They differ in what happens where several tensors must
share a grid (`groups`), in the operators they quantize (`ops`), and in how ranges are found: the
converter keeps the extremes of all samples, ai-edge-quantizer a moving average of each sample's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.graph.view import GraphView
from analyzer.quant.observers import Observer as RangeObserver
from analyzer.quant.observers import make_observer
from analyzer.records import Model, Observer, Quantizer, QuantPlan, Setting
from analyzer.targets.base import COMPUTING, F64, I64, Target
from analyzer.targets.tflite.groups import (
    Grids,
    Join,
    Operator,
    join_backward,
    join_locally,
    operators_of,
)
from analyzer.targets.tflite.moving import MovingAverage
from analyzer.targets.tflite.ops import AI_EDGE, CONVERTER, Operators
from analyzer.targets.tflite.slots import Slots

_BITS = {"int8": 8, "int16x8": 16}
# half of what an int32 holds: the converter leaves the rest to the accumulator
_BIAS_LIMIT = (2**31 - 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TfLite(Target):
    """One of the tools that make integer TFLite models.

    Attributes:
        operators: which operators it quantizes.
        join: how it brings the inputs of a Concat onto one grid.
        converter: whether it is the TFLite converter: there grids do not depend on which
            operators stay in float, and a weight's scale is widened until the bias fits.
        dense_per_channel: whether the weights of FULLY_CONNECTED have a scale per channel; in
            converters before TensorFlow 2.17 they have one.
    """

    operators: Operators
    join: Join
    converter: bool
    dense_per_channel: bool = True
    precisions: tuple[str, ...] = ("int8", "int16x8", "fp32")
    observers: tuple[Observer, ...] = ("minmax",)
    granularities: tuple[str, ...] = ("channel", "tensor")

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Find the operators, settle whose range gives each tensor its grid, and tell it."""
        view = GraphView(model.proto.graph)
        operators = operators_of(self.operators, model, view)
        precision = {o: self._precision(o, view, setting) for o in operators}
        widths = {o: _BITS[p] for o, p in precision.items() if p != "fp32"}
        if not self.converter:
            operators = [o for o in operators if o in widths]
        grids = Grids.over(model, view, operators)
        self.join(grids, operators)
        slots = Slots(
            model,
            grids,
            widths,
            setting.observer or self.observers[0],
            per_channel=setting.granularity != "tensor",
            dense_per_channel=self.dense_per_channel,
            # ai-edge-quantizer stores 64 bits, too, but computes them in 32
            bias_limit=2**63 - 1 if self.converter else 2**31 - 1,
            ends=None if self.converter else _BITS.get(setting.precision or "int8"),
        )
        named = {name: p for o, p in precision.items() for name in o.nodes}
        layers = tuple(name for name in view.nodes if name in named)
        return QuantPlan(
            target=self.name,
            layers=layers,
            computing=frozenset(n for n in layers if view.nodes[n].op_type in COMPUTING),
            precision={name: named[name] for name in layers},
            quantizers=slots.fill(operators),
            notes=self._notes(view, named),
        )

    def make_observer(self, quantizer: Quantizer) -> RangeObserver:
        """Return the moving average, or one of the shared observers."""
        if quantizer.observer == "moving_average":
            return MovingAverage()
        return make_observer(quantizer.observer or "minmax", quantizer.bits)

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return scales and zero points, computed in float32.

        `tensor_zp_scale_from_min_max` of ai-edge-quantizer's `uniform_quantize_tensor.py`; the
        converter's `DownCastScale` (`quantization_utils.cc`) differs for silent tensors only.
        """
        low = np.minimum(lo, 0.0).astype(np.float32)
        high = np.maximum(hi, 0.0).astype(np.float32)
        levels = quantizer.qmax if quantizer.symmetric else quantizer.qmax - quantizer.qmin
        span = np.maximum(high, -low) if quantizer.symmetric else high - low
        if self.converter:
            span = np.where(span == 0, np.float32(levels), span)
        else:
            span = np.maximum(span, np.float32(1e-9))
        step = span / np.float32(levels)
        if quantizer.symmetric:
            zero = np.zeros(step.shape, np.int64)
        else:
            zero = np.rint(np.float32(quantizer.qmin) - low / step).astype(np.int64)
        return step.astype(np.float64), zero

    def weight_scale(self, weight: Quantizer, scale: F64, input_scale: F64, values: F64) -> F64:
        """Widen weight scales until the bias takes no more than half of an int32.

        `SetBiasParamsWithAdjustments` of the converter's `quantization_driver.cc`;
        ai-edge-quantizer clips such a bias.
        """
        if not self.converter:
            return scale
        largest = np.abs(values) if scale.size > 1 else np.abs(values).max(keepdims=True)
        return np.asarray(np.maximum(scale, largest / _BIAS_LIMIT / input_scale))

    def _precision(self, operator: Operator, view: GraphView, setting: Setting) -> str:
        """Return the precision of a whole operator: float where one of its nodes shall be."""
        asked = [setting.table[name] for name in operator.nodes if name in setting.table]
        found = "fp32" if "fp32" in asked else [*asked, setting.precision or "int8"][0]
        op = view.nodes[operator.nodes[0]].op_type
        return "fp32" if found == "int16x8" and op in self.operators.only_8 else found

    def _notes(self, view: GraphView, precision: dict[str, str]) -> tuple[str, ...]:
        notes = []
        floats = sorted({n.op_type for name, n in view.nodes.items() if name not in precision})
        if floats:
            notes.append(f"Left in float, as it has no integer kernel for them: {_list(floats)}.")
        if self.converter and {"int8", "int16x8"} <= set(precision.values()):
            notes.append(
                "The TFLite converter makes no models of mixed int8 and int16; "
                "ai-edge-quantizer does (target 'litert')."
            )
        return tuple(notes)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:12])


TFLITE = TfLite(
    name="tflite",
    summary="TFLite converter (onnx2tf): full integer int8, per-channel weights, minmax",
    operators=CONVERTER,
    join=join_backward,
    converter=True,
    # Rough, of Arm cores: XNNPACK runs MobileNetV2 in 10.9 ms in FP32 and in 4.0 in INT8 on a
    # Raspberry Pi; 16x8 has reference kernels only, and TensorFlow warns that they are slow.
    cost_factors={"int8": 1.0, "int16x8": 4.0, "fp32": 2.7},
)

LITERT = TfLite(
    name="litert",
    summary="ai-edge-quantizer static_wi8_ai8: int8, per-channel weights, moving average",
    operators=AI_EDGE,
    join=join_locally,
    converter=False,
    observers=("moving_average", "minmax"),
    cost_factors={"int8": 1.0, "int16x8": 4.0, "fp32": 2.7},  # as above
)
