# SPDX-License-Identifier: Apache-2.0
"""The quantizers that can be imitated, by name; each is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from analyzer.errors import TargetError, nearest
from analyzer.targets.base import Target

_OURS = {
    "esp32p4": "analyzer.targets.espdl:ESP32P4",
    "esp32s3": "analyzer.targets.espdl:ESP32S3",
    "esp32": "analyzer.targets.espdl:ESP32",
    "onnxruntime": "analyzer.targets.onnxruntime:ONNXRUNTIME",
    "openvino": "analyzer.targets.openvino:OPENVINO",
    "qnn": "analyzer.targets.qnn:QNN_HTP",
    "tensorrt": "analyzer.targets.tensorrt:TENSORRT",
    "pytorch": "analyzer.targets.pytorch:X86",
    "pytorch-qnnpack": "analyzer.targets.pytorch:QNNPACK",
    "tflite": "analyzer.targets.tflite:TFLITE",
    "litert": "analyzer.targets.tflite:LITERT",
}
_GROUP = "qanalyze.targets"


def target_names() -> list[str]:
    """Return all known target names, ours first, then those of installed plug-ins."""
    return [*_OURS, *sorted(e.name for e in entry_points(group=_GROUP) if e.name not in _OURS)]


def get_target(name: str) -> Target:
    """Load a target by name.

    Raises:
        TargetError: if no such target exists; names the nearest one.
    """
    reference = _OURS.get(name)
    if reference is None:
        plugin = next((e for e in entry_points(group=_GROUP) if e.name == name), None)
        if plugin is None:
            raise TargetError(f"There is no target {name!r}.", nearest(name, target_names()))
        loaded: Target = plugin.load()
        return loaded
    module, attribute = reference.split(":")
    found: Target = getattr(import_module(module), attribute)
    return found
