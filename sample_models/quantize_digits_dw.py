# SPDX-License-Identifier: Apache-2.0
"""Quantize `digits_dw.onnx` with onnxruntime, as a user would: `digits_dw_int8.onnx`.

Run it from anywhere:  python sample_models/quantize_digits_dw.py
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

HERE = Path(__file__).parent


class Digits(CalibrationDataReader):
    """The calibration inputs, one run each."""

    def __init__(self) -> None:
        inputs = np.load(HERE / "digits_dw" / "inputs.npz")["input"]
        self.runs = iter([{"input": inputs[i : i + 1]} for i in range(len(inputs))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next run."""
        return next(self.runs, None)


def main() -> None:
    """Write the quantized model beside the float one."""
    logging.disable(logging.WARNING)
    quantize_static(
        HERE / "digits_dw.onnx",
        HERE / "digits_dw_int8.onnx",
        Digits(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


if __name__ == "__main__":
    main()
