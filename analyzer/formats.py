# SPDX-License-Identifier: Apache-2.0
"""The tools that plans are written for: whose rules they follow, and what to do with the files."""

from __future__ import annotations

from dataclasses import dataclass

# Target -> format that its own quantizer reads; others: a Q/DQ model.
_OWN = {
    "esp32": "esp-ppq",
    "esp32s3": "esp-ppq",
    "esp32p4": "esp-ppq",
    "onnxruntime": "onnxruntime",
    "openvino": "nncf",
    "tensorrt": "tensorrt",
    "tflite": "tflite",
    "litert": "tflite",
    "pytorch": "pytorch",
    "pytorch-qnnpack": "pytorch",
    "qnn": "qnn",
}

_ESP = ("esp32p4", "esp32s3", "esp32")
_TORCH = ("pytorch", "pytorch-qnnpack")
_TFLITE = ("tflite", "litert")


@dataclass(frozen=True, slots=True)
class Tool:
    """One format of `--export`.

    Attributes:
        title: of the tool.
        targets: that imitate this tool, so that what was measured holds for it.
        use: one or two sentences: what the files are for, and how they are given to the tool.
    """

    title: str
    targets: tuple[str, ...]
    use: str


TOOLS = {
    "esp-ppq": Tool(
        "esp-ppq",
        _ESP,
        "The setting is read by QuantizationSettingFactory.from_json; the script does that and "
        "quantizes.",
    ),
    "onnxruntime": Tool(
        "onnxruntime",
        ("onnxruntime", "qnn"),
        "The script calls quantize_static with the arguments of the plan.",
    ),
    "qdq": Tool(
        "Q/DQ ONNX",
        ("onnxruntime", "tensorrt", "openvino", "qnn"),
        "The quantized model itself, with QuantizeLinear and DequantizeLinear nodes: give it to "
        "the engine as it is.",
    ),
    "qnn": Tool(
        "Qualcomm QNN",
        ("qnn",),
        "Encodings for --quantization_overrides of the QNN and SNPE converters.",
    ),
    "aimet": Tool("AIMET", (), "Encodings that a QuantizationSimModel loads."),
    "nncf": Tool(
        "NNCF",
        ("openvino",),
        "The script calls nncf.quantize with the ignored scope and parameters of the plan.",
    ),
    "tensorrt": Tool(
        "TensorRT",
        ("tensorrt",),
        "A model with explicit Q/DQ for the builder; calibration cache and layer flags serve "
        "releases before 11 only.",
    ),
    "tflite": Tool(
        "TFLite and LiteRT",
        _TFLITE,
        "The denylist is for the QuantizationDebugger, the recipe for ai-edge-quantizer.",
    ),
    "pytorch": Tool(
        "PyTorch",
        _TORCH,
        "A QConfigMapping by module names, and the same for torchao.",
    ),
    "rknn": Tool(
        "RKNN-Toolkit2",
        (),
        "merge.py puts the layers of hybrid.quantization.cfg into the cfg that step 1 of hybrid "
        "quantization wrote; then run step 2.",
    ),
    "tpu-mlir": Tool(
        "TPU-MLIR",
        (),
        "merge.py checks the names against the table that run_calibration.py wrote, and writes "
        "the two tables that model_deploy.py takes.",
    ),
    "modelopt": Tool(
        "ModelOpt",
        ("tensorrt",),
        "The script calls modelopt.onnx.quantization with the exclusions of the plan.",
    ),
    "quark": Tool(
        "AMD Quark",
        (),
        "config.py builds the QConfig of the plan and quantizes with it.",
    ),
    "model-explorer": Tool(
        "Model Explorer",
        tuple(_OWN),  # it shows what was measured, whatever the rules
        "Node data for your own model file, of the analysis, not of a plan: model-explorer "
        "MODEL.onnx --extensions=model_explorer_onnx --node_data_paths=graphwise.json,"
        "isolated.json",
    ),
}

# The FP32 model that an export writes, where a file of any format mentions this name.
SOURCE = "model.fp32.onnx"

# Formats that tell nothing but what was measured: they need no plan, and no runtime.
# Name -> function from an `Analysis` to texts by their paths below the export folder.
FROM_ANALYSIS = {"model-explorer": "analyzer.node_data:node_data"}


def own_format(target: str) -> str:
    """Return the format to suggest for a target.

    >>> own_format("openvino")
    'nncf'
    """
    return _OWN.get(target, "qdq")
