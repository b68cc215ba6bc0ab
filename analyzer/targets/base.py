# SPDX-License-Identifier: Apache-2.0
"""What a target is: the rules of one quantizer, told as a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.codes import CODES
from analyzer.quant.observers import Observer as RangeObserver
from analyzer.quant.observers import extremes, make_observer
from analyzer.records import (
    Edit,
    EditKind,
    Finding,
    Model,
    Observer,
    Quantizer,
    QuantPlan,
    Samples,
    Setting,
)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Op types that multiply and accumulate.
COMPUTING = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention"}
)


def last_axis(model: Model, tensor: str) -> int:
    """Return the last axis of a bias, which runs over output channels (a Gemm's may be 2-D)."""
    return max(len(model.shapes[tensor]) - 1, 0)


def finding(code: str, layer: str | None, **evidence: object) -> Finding:
    """Return a finding whose advice is the remedy of its code."""
    return Finding(code, layer, evidence, CODES[code].remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(ABC):
    """One quantizer's rules.

    The hooks are called in the order in which they stand here; those with a body may be left as
    they are.

    Attributes:
        name: on the command line.
        summary: one line for `--list-targets`.
        precisions: what a layer can be set to, the default first.
        observers: of activation ranges, the default first.
        granularities: of weight scales, the default first.
        calibrates_with_quantized_weights: whether the quantizer finds activation ranges in the
            network whose weights are already quantized.
        calibrates_unoptimized: whether it finds them with onnxruntime's graph optimizations
            switched off, which shifts values by rounding errors.
        native_edits: kinds of edits that the quantizer's own config can ask it for; it does them
            on the graph that `prepare` returned.  All others are made to the model it is given.
        cost_factors: precision -> time of a multiply-accumulate as a multiple of the default
            precision's, roughly.
        completes_on_data: whether `complete` has to run the model.
        folds_norms: whether a BatchNormalization is part of the layer before it when the
            quantizer looks at the graph; False: it may quantize in between.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    observers: tuple[Observer, ...]
    granularities: tuple[str, ...] = ("channel",)
    calibrates_with_quantized_weights: bool = False
    calibrates_unoptimized: bool = False
    completes_on_data: bool = False
    folds_norms: bool = True
    native_edits: frozenset[EditKind] = frozenset()
    cost_factors: Mapping[str, float] = field(default_factory=dict)

    def rewrite(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Simplify the user's own model as the quantizer does before it looks at it.

        Args:
            proto: as it stands in the file; may be modified.

        Returns:
            the model it was given where there is nothing to do, else another one; and notes on
            what was done.
        """
        return proto, ()

    def prepare(self, model: Model) -> Model:
        """Rewrite a bound canonical model into the graph that the quantizer really quantizes."""
        return model

    def edit(self, model: Model, edit: Edit) -> Model:
        """Do an edit of a kind in `native_edits` as the quantizer does it.

        Args:
            model: as `prepare` returned it.
            edit: what the config asks for.
        """
        raise NotImplementedError(edit.kind)

    @abstractmethod
    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Place all quantizers; their scales are still missing.

        Args:
            model: as `prepare` returned it.
            setting: every value checked against what this target offers.
        """

    def make_observer(self, quantizer: Quantizer) -> RangeObserver:
        """Return a fresh observer of the kind `quantizer.observer` for its activation range.

        Quantizers that agree in tensors, observer, bits and symmetry share one.
        """
        return make_observer(quantizer.observer or "minmax", quantizer.bits)

    def constant_range(self, x: F32, quantizer: Quantizer) -> tuple[F64, F64]:
        """Return the range of a parameter, one value or one per channel of `quantizer.axis`."""
        return extremes(x, quantizer.axis)

    @abstractmethod
    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Turn ranges into scales and zero points.

        Args:
            quantizer: the one to get them.
            lo: float64 of one value, or of one per channel.
            hi: as `lo`.
            kind: the observer that found the range.
        """

    def weight_scale(self, weight: Quantizer, scale: F64, input_scale: F64, values: F64) -> F64:
        """Return the weight's scale once its layer's bias is known; a bias may need a wider one.

        Args:
            weight: its quantizer; the bias will have weight scale times input scale.
            scale: of the weight, one value or one per channel.
            input_scale: of the layer's input.
            values: the bias, flattened.
        """
        return scale

    def complete(self, model: Model, plan: QuantPlan, samples: Samples) -> tuple[Model, QuantPlan]:
        """Do what the quantizer does once all scales are known (tables, bias correction).

        Args:
            model: as `prepare` returned it.
            plan: calibrated.
            samples: the calibration data.
        """
        return model, plan

    def findings(self, model: Model, plan: QuantPlan) -> Sequence[Finding]:
        """Return the quantizer's quirks that this calibrated plan runs into."""
        return ()
