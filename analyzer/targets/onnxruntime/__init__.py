# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's `quantize_static` in QDQ format, with the defaults of 1.31.

A Q/DQ pair sits on a tensor and serves every reader; `marks` says which tensors get one, `slots`
where that is in a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from analyzer.errors import TargetError, nearest
from analyzer.graph.build import in_execution_order
from analyzer.quant.observers import Observer as RangeObserver
from analyzer.quant.ort_observers import make_ort_observer
from analyzer.records import Finding, Model, Observer, Quantizer, QuantPlan, Setting
from analyzer.targets.base import COMPUTING, F64, I64, Target
from analyzer.targets.onnxruntime.marks import Marks, mark_tensors
from analyzer.targets.onnxruntime.mixed import overrides_for
from analyzer.targets.onnxruntime.quirks import find_quirks
from analyzer.targets.onnxruntime.rules import (
    S8,
    S16,
    U8,
    U16,
    Override,
    Rules,
    Scheme,
    opset_after_update,
)
from analyzer.targets.onnxruntime.slots import Slots

FLOAT = "fp32"
_BIAS_MARGIN = 1.0001
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class QDQTarget(Target):
    """What all users of onnxruntime's QDQ quantizer share.

    Attributes:
        schemes: precision -> types.
        least_range: ranges are widened to this at their upper end (`MinimumRealRange`).
    """

    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    least_range: float | None = None
    calibrates_unoptimized: bool = True

    def rules(self, model: Model, setting: Setting, precision: Mapping[str, str]) -> Rules:
        """Return the arguments of the call.

        Args:
            model: to be quantized.
            setting: what the user asked for.
            precision: of every node.
        """
        base, other = (self.schemes[p] for p in self._precisions(setting))
        overrides: dict[str, Override] = {}
        if base != other:
            layers = [n for n, p in precision.items() if self.schemes.get(p) == other]
            overrides = overrides_for(model, layers, other.activation, base.activation)
        return Rules(
            types=base,
            per_channel=(setting.granularity or self.granularities[0]) == "channel",
            opset=opset_after_update(model.opset, wide=16 in (base[0].bits, other[0].bits)),
            excluded=frozenset(n for n, p in precision.items() if p == FLOAT),
            overrides=overrides,
        )

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Mark tensors as the op handlers of `quantize_static` do, then turn them into slots."""
        default = setting.precision or self.precisions[0]
        precision = {n.name: setting.table.get(n.name, default) for n in model.proto.graph.node}
        marks = mark_tensors(model, self.rules(model, setting, precision))
        quantizers = Slots(marks, setting.observer or self.observers[0]).quantizers()
        layers = _layers(marks, quantizers)
        return QuantPlan(
            target=self.name,
            layers=layers,
            computing=frozenset(n for n in layers if marks.view.nodes[n].op_type in COMPUTING),
            precision={n: precision[n] for n in layers},
            default_precision=default,
            quantizers=in_execution_order(marks.view, quantizers),
        )

    def _precisions(self, setting: Setting) -> tuple[str, str]:
        """Return the run's precision, and the other one that some layers have.

        Raises:
            TargetError: if the table asks for what tensor overrides cannot give.
        """
        named = list(dict.fromkeys(p for p in setting.table.values() if p != FLOAT))
        base = setting.precision or self.precisions[0]
        if base == FLOAT:
            base = named[0] if named else self.precisions[0]
        others = [p for p in named if p != base]
        possible = [p for p in self.schemes if p != base and self._mixes(base, p)]
        for layer, precision in setting.table.items():
            if precision in others and (precision not in possible or len(others) > 1):
                raise TargetError(
                    f"Layer {layer!r} cannot be {precision!r} in a network of {base!r}: "
                    "onnxruntime mixes 8- and 16-bit activations of one sign, expected "
                    f"{' or '.join(map(repr, [*possible, FLOAT]))}.",
                    nearest(precision, [*possible, FLOAT]),
                )
        return base, others[0] if others else base

    def _mixes(self, one: str, another: str) -> bool:
        a, b = self.schemes[one], self.schemes[another]
        return a.weight == b.weight and a.activation.signed == b.activation.signed

    def make_observer(self, quantizer: Quantizer) -> RangeObserver:
        """Return a calibrator of onnxruntime's."""
        return make_ort_observer(quantizer.observer or self.observers[0])

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return scales as `compute_scale_zp` of `quant_utils.py` does (float32 scales)."""
        lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
        if self.least_range is not None:
            least = np.float32(self.least_range)
            hi = np.maximum(hi, (lo.astype(np.float32) + least).astype(np.float64))
        if quantizer.symmetric:
            hi = np.maximum(-lo, hi)
            lo = -hi
        step = (hi - lo) / (quantizer.qmax - quantizer.qmin)
        silent = step < _FLOAT32_TINY
        step = np.where(silent, 1.0, step)
        if quantizer.symmetric:
            middle = np.full(step.shape, np.rint((quantizer.qmin + quantizer.qmax) / 2))
            zero = np.where(silent, 0.0, middle)
        else:
            zero = np.where(silent, 0.0, np.rint(quantizer.qmin - lo / step))
        return step.astype(np.float32).astype(np.float64), zero.astype(np.int64)

    def weight_scale(self, weight: Quantizer, scale: F64, input_scale: F64, values: F64) -> F64:
        """Widen signed weight scales until the bias fits 32 bits.

        `_adjust_weight_scale_for_int32_bias` of `qdq_quantizer.py`: per channel where the weight
        is, else for the largest bias.
        """
        if not weight.signed:
            return scale
        largest = np.abs(values) if weight.axis is not None else np.abs(values).max(keepdims=True)
        if largest.size not in (1, scale.size):
            return scale
        smallest = _BIAS_MARGIN * 2 * largest / (2**32 - 2)
        product = scale * input_scale
        narrow = (product > 0) & (product < smallest)
        widened = scale * np.where(narrow, smallest / np.where(product > 0, product, 1.0), 1.0)
        return np.asarray(widened.astype(np.float32).astype(np.float64))

    def findings(self, model: Model, plan: QuantPlan) -> Sequence[Finding]:
        """Return the quirks of onnxruntime's quantizer that the plan runs into."""
        return find_quirks(model, plan)


def _layers(marks: Marks, quantizers: list[Quantizer]) -> tuple[str, ...]:
    carrying = {q.node for q in quantizers}
    touching = {
        name
        for name, node in marks.view.nodes.items()
        if marks.rules.quantizes(node)
        and any(t in marks.tensors for t in [*node.input, *node.output])
    }
    return tuple(name for name in marks.view.nodes if name in carrying | touching)


ONNXRUNTIME = QDQTarget(
    name="onnxruntime",
    summary="onnxruntime quantize_static, QDQ: int8 (S8S8), u8s8, u8u8, 16-bit activations",
    precisions=("int8", "u8s8", "u8u8", "s16s8", "u16s8", FLOAT),
    observers=("minmax", "percentile", "entropy"),
    granularities=("channel", "tensor"),
    schemes=MappingProxyType(
        {
            "int8": Scheme(S8, S8),
            "u8s8": Scheme(U8, S8),
            "u8u8": Scheme(U8, U8),
            "s16s8": Scheme(S16, S8),
            "u16s8": Scheme(U16, S8),
        }
    ),
    # Rough, of CPUs: 2.5 extrapolates Intel's tables of int8 over FP32 for TensorFlow models; no
    # model was timed in onnxruntime.  16-bit activations have no integer kernels there: floats
    # between Q/DQ pairs.
    cost_factors=MappingProxyType(
        {"int8": 1.0, "u8s8": 1.0, "u8u8": 1.0, "s16s8": 3.0, "u16s8": 3.0, FLOAT: 2.5}
    ),
)
