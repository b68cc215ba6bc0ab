# SPDX-License-Identifier: Apache-2.0
"""What a target is: the rules of one quantizer, told as a plan."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from analyzer.records import Model, Observer, Quantizer, QuantPlan

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Op types that multiply and accumulate.
COMPUTING = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention"}
)


def last_axis(model: Model, tensor: str) -> int:
    """Return the last axis of a bias, which runs over output channels (a Gemm's may be 2-D)."""
    return max(len(model.shapes[tensor]) - 1, 0)


class Target(Protocol):
    """One quantizer's rules.

    Attributes:
        summary: one line for `--list-targets`.
        precisions: what a layer can be set to.
        observer: default range observer of activations.
        calibrates_with_quantized_weights: whether the quantizer finds activation ranges in the
            network whose weights are already quantized.
    """

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def summary(self) -> str:
        """One line for `--list-targets`."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """What a layer can be set to."""

    @property
    def observer(self) -> Observer:
        """Default range observer of activations."""

    @property
    def calibrates_with_quantized_weights(self) -> bool:
        """Whether activation ranges are those of the network with quantized weights."""

    def prepare(self, model: Model) -> Model:
        """Rewrite a bound model into the graph that this quantizer really quantizes."""

    def place(self, model: Model, *, observer: Observer | None = None) -> QuantPlan:
        """Place all quantizers; their scales are still missing.

        Args:
            model: as `prepare` returned it.
            observer: overrides the default one for activations.
        """

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Turn ranges into scales and zero points.

        Args:
            quantizer: the one to get them.
            lo: float64 of one value, or of one per channel.
            hi: as `lo`.
            kind: the observer that found the range.
        """

    def weight_scale(self, bias: Quantizer, scale: F64, input_scale: F64, values: F64) -> F64:
        """Return the weight's scale once its layer's bias is known.

        Args:
            bias: quantizer of the bias; its own scale will be weight scale times input scale.
            scale: of the weight, one value or one per channel.
            input_scale: of the layer's input.
            values: the bias, flattened.
        """
