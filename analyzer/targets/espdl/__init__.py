# SPDX-License-Identifier: Apache-2.0
"""Espressif's esp-ppq 1.3.12 for ESP-DL chips: symmetric power-of-two grids.

`graph` rewrites the model as esp-ppq does, `initial` gives every slot its first state, `passes`
fuse, simplify and align them; here they become a plan.  `comparisons` and `luts` do what needs
scales, `quirks` says where the plan will surprise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from analyzer.graph.view import view_of
from analyzer.quant.observers import extremes, order_statistics
from analyzer.records import (
    Edit,
    EditKind,
    Finding,
    Model,
    Observer,
    Quantizer,
    QuantPlan,
    Rounding,
    Samples,
    Setting,
)
from analyzer.targets.base import F32, F64, I64, Target
from analyzer.targets.espdl.comparisons import align_comparisons
from analyzer.targets.espdl.configs import BITS, COMPUTING, RECURRENT, Config, Graph, role
from analyzer.targets.espdl.graph import esp_ppq_graph
from analyzer.targets.espdl.initial import Family, dispatched, first_configs
from analyzer.targets.espdl.luts import read_tables
from analyzer.targets.espdl.passes import run_passes
from analyzer.targets.espdl.quirks import find_quirks
from analyzer.targets.espdl.simplifier import simplify_model
from analyzer.targets.espdl.splits import split_as_esp_ppq

_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class EspDl(Target):
    """One family of ESP-DL chips.

    Attributes:
        family: what depends on the chip, but for `rounding`.
    """

    family: Family
    rounding: Rounding
    precisions: tuple[str, ...] = ("int8", "int16", "w8a16", "fp32")
    observers: tuple[Observer, ...] = ("kl", "minmax", "percentile", "mse")
    calibrates_with_quantized_weights: bool = True
    native_edits: frozenset[EditKind] = frozenset({"weight_split"})

    def rewrite(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Run onnxsim, as esp-ppq does first."""
        return simplify_model(proto)

    def prepare(self, model: Model) -> Model:
        """Rewrite the model as esp-ppq does before it quantizes."""
        return esp_ppq_graph(model)

    def edit(self, model: Model, edit: Edit) -> Model:
        """Split weights, as `weight_split_setting` asks for it."""
        return split_as_esp_ppq(model, edit)

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Run the passes and return one quantizer per slot of every quantized node."""
        view = view_of(model.proto)
        precision = dispatched(model, view, setting)
        types = {n: model.op_types.get(n, view.nodes[n].op_type) for n in precision}
        graph = Graph(model, view, types, dict(precision))
        wide = BITS.get(setting.precision or "int8") == 16
        for name, kind in types.items():
            configs = first_configs(
                model,
                view,
                self.family,
                view.nodes[name],
                kind,
                precision[name],
                constants="minmax" if wide else None,
            )
            graph.configs.update({(name, c.slot): c for c in configs})
        run_passes(graph)
        observer = setting.observer or ("minmax" if wide else "kl")
        return QuantPlan(
            target=self.name,
            layers=tuple(types),
            computing=frozenset(n for n, t in types.items() if t in COMPUTING),
            precision=graph.precision,
            quantizers=tuple(self._quantizers(graph, observer)),
            notes=_notes(graph, self.family),
            default_precision=setting.precision or "int8",
        )

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return power-of-two scales (`quantization/observer/range.py`).

        A range is rounded up to the next power of two; a KL threshold to the nearest one.
        """
        lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
        reach = np.maximum(-lo, hi)
        if kind == "kl":
            step = np.where(reach == 0, 2.0**-27, np.maximum(reach / -quantizer.qmin, 1e-8))
            exponent = np.floor(np.log2(step) + 0.5)
        else:
            step = 2 * reach / (quantizer.qmax - quantizer.qmin)
            exponent = np.ceil(np.log2(np.maximum(step, _SMALLEST_SCALE)))
        return np.exp2(exponent), np.zeros(exponent.shape, np.int64)

    def constant_range(self, x: F32, quantizer: Quantizer) -> tuple[F64, F64]:
        """Return minimum and maximum per channel, but two order statistics per tensor."""
        if quantizer.fixed_range is not None:
            return np.array([quantizer.fixed_range[0]]), np.array([quantizer.fixed_range[1]])
        if quantizer.axis is None and quantizer.observer == "percentile" and x.size:
            lo, hi = order_statistics(x)
            return np.array([lo]), np.array([hi])
        return extremes(x, quantizer.axis)

    def complete(self, model: Model, plan: QuantPlan, samples: Samples) -> tuple[Model, QuantPlan]:
        """Align comparisons, and in a 16-bit model replace functions by tables."""
        plan = align_comparisons(self, model, plan)
        if BITS.get(plan.default_precision) != 16:
            return model, plan
        model, tables = read_tables(model, plan, self.rounding)
        if tables:
            note = (
                f"{len(tables)} 16-bit functions read tables of 2049 entries, in the FP32 "
                "reference too, as in esp-ppq."
            )
            plan = replace(plan, notes=(*plan.notes, note))
        return model, plan

    def findings(self, model: Model, plan: QuantPlan) -> Sequence[Finding]:
        """Return the quirks of esp-ppq that this plan runs into (QA201 to QA212)."""
        return find_quirks(model, plan)

    def _quantizers(self, graph: Graph, observer: Observer) -> Iterator[Quantizer]:
        for config in graph.configs.values():
            root = config.root()
            if "FP32" in (config.state, root.state):
                continue
            yield self._quantizer(graph, config, root, observer)

    def _quantizer(
        self, graph: Graph, config: Config, root: Config, observer: Observer
    ) -> Quantizer:
        bits = config.bits
        top = 2.0 ** (bits - 1) - 0.5
        held = config.constant or config.fixed is not None
        return Quantizer(
            node=config.node,
            slot=config.slot,
            tensor=config.tensor,
            role=role(graph, config),
            bits=bits,
            axis=config.axis,
            qmin=-(2 ** (bits - 1)),
            qmax=2 ** (bits - 1) - 1,
            rounding=self.rounding,
            group=f"{root.node}:{root.slot}" if root is not config else None,
            active=config.state != "OVERLAPPED",
            observer=None if config.state == "BIAS" else config.observer if held else observer,
            follows=None if root is config else (root.node, root.slot),
            # the middle of the last step: the rule for ranges gives the fixed scale back
            fixed_range=(-config.fixed * top, config.fixed * top) if config.fixed else None,
        )


ESP32P4 = EspDl(
    name="esp32p4",
    summary="esp-ppq for ESP32-P4 and -S31: power-of-two scales, per-channel weights, half-even",
    family=Family(per_channel=True, bias_bits={8: 32, 16: 40}, integer_attention=True),
    rounding="half_even",
    # Rough.  128-bit vectors hold 16 int8 or 8 int16; float has none: esp-dsp's dot product takes
    # 5 cycles per element, esp-dl's int8 convolutions (operator_performance.md) a third of one.
    cost_factors={"int8": 1.0, "int16": 2.0, "w8a16": 2.0, "fp32": 16.0},
)
ESP32S3 = EspDl(
    name="esp32s3",
    summary="esp-ppq for ESP32-S3: power-of-two scales, per-tensor weights, 20-bit bias, half-up",
    family=Family(per_channel=False, bias_bits={8: 20, 16: 40}),
    granularities=("tensor",),
    rounding="half_up",
    # Rough.  Espressif's face recognition takes 287 ms in 8 bits and 554 ms in 16; esp-dsp's float
    # dot product 1.7 cycles per element, esp-dl's int8 convolutions about a quarter of one.
    cost_factors={"int8": 1.0, "int16": 1.9, "w8a16": 1.9, "fp32": 7.0},
)
ESP32 = EspDl(
    name="esp32",
    summary="esp-ppq for ESP32, -S2, -C2, -C3, -C5, -C6: power-of-two scales, per-tensor weights, "
    "half-up",
    family=Family(per_channel=False, bias_bits={8: 32, 16: 64}),
    granularities=("tensor",),
    rounding="half_up",
    # Rough.  No vectors: a product of 16 bits costs as much as one of 8; esp-dsp's dot product of
    # floats takes 2.4 times as long as that of int16.
    cost_factors={"int8": 1.0, "int16": 1.0, "w8a16": 1.0, "fp32": 2.4},
)


def _notes(graph: Graph, family: Family) -> tuple[str, ...]:
    notes = []
    if any(t == "ConvTranspose" for t in graph.types.values()):
        notes.append(
            "ConvTranspose is simulated as one layer; esp-ppq splits it into InsertZeros and "
            "Conv, which adds one activation quantizer."
        )
    if any(t in RECURRENT for t in graph.types.values()):
        notes.append(
            "Inside recurrent layers nothing is quantized; esp-ppq rounds their states to 2^-9, "
            "in its float reference too."
        )
    if family.integer_attention and any(t == "Attention" for t in graph.types.values()):
        notes.append(
            "Attention is computed in float between its quantizers; esp-ppq computes integers "
            "there once everything is quantized, as the ESP32-P4 does, so behind it graphwise "
            "errors differ from its report."
        )
    return tuple(notes)
