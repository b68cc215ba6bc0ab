# SPDX-License-Identifier: Apache-2.0
"""OpenVINO as `nncf.quantize` of NNCF 3.4 prepares it: a converted model with FakeQuantize nodes.

`operations` sees the network as OpenVINO does, `kernels` merges what runs as one, `propagation`
moves quantizers to their places, `setup` makes a plan of them; `ranges` holds the arithmetic and
`bias_correction` what NNCF does last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analyzer.quant.observers import Observer as RangeObserver
from analyzer.quant.run_means import ChannelExtremes, RunMeans
from analyzer.records import Model, Observer, Quantizer, QuantPlan, Samples, Setting
from analyzer.targets.base import F64, I64, Target
from analyzer.targets.openvino.bias_correction import correct_biases
from analyzer.targets.openvino.ranges import asymmetric_grid, symmetric_grid, weight_grid
from analyzer.targets.openvino.setup import CHANNELS, HALF, plan, store_half_range

SUBSET = 300  # samples that NNCF looks at by default


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVino(Target):
    """NNCF with default settings, on a model that `openvino.convert_model` made.

    Attributes:
        bias_correction: whether the fast bias correction runs, as it does by default.
    """

    name: str = "openvino"
    summary: str = "NNCF quantize for OpenVINO, int8, per-channel weights, fast bias correction"
    precisions: tuple[str, ...] = ("int8", "int8-mixed", "fp32")
    observers: tuple[Observer, ...] = ("mean_minmax", "minmax")
    bias_correction: bool = True
    completes_on_data: bool = True

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Let quantizers move as NNCF's solver does; layers at fp32 are its ignored scope."""
        return plan(self, model, setting)

    def make_observer(self, quantizer: Quantizer) -> RangeObserver:
        """Return means over runs per tensor, or the extremes of all runs per channel."""
        if quantizer.axis is not None:
            return ChannelExtremes(CHANNELS, quantizer.axis, magnitude=quantizer.symmetric)
        return RunMeans(
            quantizer.observer or self.observers[0],
            max(len(quantizer.observes), 1),
            mean=quantizer.observer != "minmax",
            magnitude=quantizer.symmetric,
        )

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return the grid between the ends of a FakeQuantize node, as float32 holds its step."""
        if quantizer.role == "weight":
            scale, zero = weight_grid(lo, hi, half=kind == HALF)
        elif quantizer.symmetric:
            scale, zero = symmetric_grid(lo, hi)
        else:
            scale, zero = asymmetric_grid(lo, hi)
        return scale.astype(np.float32).astype(np.float64), zero

    def complete(self, model: Model, plan: QuantPlan, samples: Samples) -> tuple[Model, QuantPlan]:
        """Round weights on half a grid as OpenVINO does, then correct biases."""
        plan = store_half_range(model, plan)
        if len(samples) > SUBSET:
            note = f"NNCF looks at {SUBSET} samples unless `subset_size` says more: all were used."
            plan = replace(plan, notes=(*plan.notes, note))
        return model, correct_biases(model, plan, samples) if self.bias_correction else plan


OPENVINO = OpenVino(
    # Rough.  OpenVINO's own table of INT8 against FP32: 1.9 times the speed with AVX2, 3 to 4 with
    # VNNI.
    cost_factors={"int8": 1.0, "int8-mixed": 1.0, "fp32": 3.0},
)
