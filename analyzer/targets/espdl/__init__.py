# SPDX-License-Identifier: Apache-2.0
"""Espressif's esp-ppq 1.3.12 for ESP-DL chips: symmetric power-of-two grids.

`graph` rewrites the model as esp-ppq does, `configs` gives every slot its first state, `passes`
fuse, simplify and align them; here they become a plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.graph.build import is_float
from analyzer.graph.fuse import fuse_swish
from analyzer.graph.view import GraphView
from analyzer.quant.observers import extremes, order_statistics
from analyzer.records import Model, Observer, Quantizer, QuantPlan, Rounding, Setting
from analyzer.targets.base import F32, F64, I64, Target, last_axis
from analyzer.targets.espdl.configs import (
    BIASED,
    COMPARE,
    COMPUTING,
    QUANTIZED,
    RECURRENT,
    Config,
    Graph,
    is_float_slot,
    observer_of,
    role,
    weight_axis,
)
from analyzer.targets.espdl.passes import (
    align,
    fuse_activations,
    fuse_any_with_activation,
    fuse_passive,
    simplify,
)

_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class EspDl(Target):
    """One ESP-DL chip family at int8.

    Attributes:
        per_channel: weights of Conv and Gemm have a scale per output channel.
        bias_bits: width of the stored bias.
    """

    per_channel: bool
    bias_bits: int
    rounding: Rounding
    precisions: tuple[str, ...] = ("int8",)
    observers: tuple[Observer, ...] = ("kl", "minmax", "percentile", "mse")
    calibrates_with_quantized_weights: bool = True

    def prepare(self, model: Model) -> Model:
        """Fuse SiLU into one Swish, as esp-ppq's FUSE_SWISH does."""
        return fuse_swish(model)

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Run the passes and return one quantizer per slot of every quantized node."""
        view = GraphView(model.proto.graph)
        types = {
            name: model.op_types.get(name, node.op_type)
            for name, node in view.nodes.items()
            if model.op_types.get(name, node.op_type) in QUANTIZED
            and any(is_float(model, t) for t in node.output)
        }
        graph = Graph(model, view, types)
        for name in types:
            self._configure(graph, view.nodes[name])
        fuse_activations(graph)
        fuse_passive(graph)
        fuse_any_with_activation(graph)
        simplify(graph)
        for config in graph.configs.values():
            if config.state == "INITIAL":
                config.state = "ACTIVATED"
        align(graph)
        return QuantPlan(
            target=self.name,
            layers=tuple(types),
            computing=frozenset(n for n, t in types.items() if t in COMPUTING),
            precision={n: "fp32" if t in RECURRENT else "int8" for n, t in types.items()},
            quantizers=tuple(self._quantizers(graph, setting.observer or self.observers[0])),
            notes=_notes(graph),
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
        if quantizer.axis is None and quantizer.observer == "percentile" and x.size:
            lo, hi = order_statistics(x)
            return np.array([lo]), np.array([hi])
        return extremes(x, quantizer.axis)

    def _configure(self, graph: Graph, node: onnx.NodeProto) -> None:
        """Give every slot its first state (2.2 of the reference: FP32, INITIAL or bias)."""
        kind = graph.types[node.name]
        for side, tensors in (("in", node.input), ("out", node.output)):
            for index, tensor in enumerate(tensors):
                if not tensor:
                    continue
                slot = f"{side}{index}"
                config = Config(node.name, slot, tensor, constant=graph.view.is_constant(tensor))
                if not is_float(graph.model, tensor) or is_float_slot(kind, slot):
                    config.state = "FP32"
                elif kind in BIASED and slot == "in2":
                    config.state = "BIAS"
                    config.bits = self.bias_bits
                    config.axis = last_axis(graph.model, tensor) if self.per_channel else None
                elif kind in BIASED and slot == "in1" and self.per_channel and config.constant:
                    config.per_channel = True
                    config.axis = weight_axis(node)
                graph.configs[node.name, slot] = config

    def _quantizers(self, graph: Graph, observer: Observer) -> Iterator[Quantizer]:
        for key, config in graph.configs.items():
            if config.state == "FP32":
                continue
            root = config.root()
            bias = config.state == "BIAS"
            bits = config.bits
            yield Quantizer(
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
                observer=None if bias else observer_of(config, observer),
                follows=None if root is config else (root.node, root.slot),
            )
            assert key == (config.node, config.slot)


ESP32P4 = EspDl(
    name="esp32p4",
    summary="esp-ppq for ESP32-P4: int8, power-of-two scales, per-channel weights, half-even",
    per_channel=True,
    bias_bits=32,
    rounding="half_even",
)


def _notes(graph: Graph) -> tuple[str, ...]:
    notes = []
    if any(t == "ConvTranspose" for t in graph.types.values()):
        notes.append(
            "ConvTranspose is simulated as one layer; esp-ppq splits it into InsertZeros and "
            "Conv, which adds one activation quantizer."
        )
    if any(t in COMPARE for t in graph.types.values()):
        notes.append(
            "Comparisons read their inputs unquantized; esp-ppq doubles the larger scale."
        )
    if any(t in RECURRENT for t in graph.types.values()):
        notes.append("Recurrent layers run whole in FP32.")
    return tuple(notes)
