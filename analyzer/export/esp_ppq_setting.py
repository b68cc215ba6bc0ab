# SPDX-License-Identifier: Apache-2.0
"""The JSON of esp-ppq's `QuantizationSetting`: what is to be told goes in, its fields come out.

`from_json` starts from `default_setting()`, not from `espdl_setting()`: what the latter changes
has to stand in the file, or elementwise operands are aligned otherwise and parameters baked in.
Fields and numbers are those of `api/setting.py` and `core/quant.py` in esp-ppq 1.3.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analyzer.targets.espdl.configs import BITS

QUANT_TYPES = {"int8": "w8a8", "int16": "w16a16", "w8a16": "w8a16"}
PLATFORMS = {
    "esp32p4": {"fp32": 0, "int8": 551, "int16": 552, "w8a16": 560},
    "esp32s3": {"fp32": 0, "int8": 553, "int16": 554, "w8a16": 561},
    "esp32": {"fp32": 0, "int8": 557, "int16": 558, "w8a16": 562},
}
# what `from_json` compares with its own; the package's version is another number
_VERSION, _SIGNATURE = "0.6.6", "PPL Quantization Tool"
_SHOWN = {"__ppq_enum__": "QuantizationVisibility", "name": "EXPORT_WHEN_ACTIVE"}


@dataclass(frozen=True, slots=True)
class Told:
    """A plan in esp-ppq's words.

    Attributes:
        target: chip.
        file: the FP32 model that it is for.
        precision: of all layers that `table` does not name.
        observer: of activations; None: the default.
        table: operation -> precision.
        splits: layer and threshold, in order.
        scales: (operation, slot) -> scale of its activation.
    """

    target: str
    file: Literal["original", "ours"]
    precision: str
    observer: str | None = None
    table: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[tuple[str, float], ...] = ()
    scales: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def quant_type(self) -> str:
        """What `espdl_quantize_onnx` calls the precision."""
        return QUANT_TYPES[self.precision]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One per split, where one for all does not do."""
        found = tuple(threshold for _, threshold in self.splits)
        return found if len(set(found)) > 1 else ()

    @property
    def output_scales(self) -> dict[str, float]:
        """Operation -> scale of its first output."""
        return {node: scale for (node, slot), scale in self.scales.items() if slot == "out0"}

    @property
    def other_scales(self) -> dict[tuple[str, str], float]:
        """(operation, slot) -> scale, of all but first outputs."""
        return {key: scale for key, scale in self.scales.items() if key[1] != "out0"}


def setting_of(told: Told, said: Sequence[str]) -> dict[str, Any]:  # Any: as JSON holds it
    """Return the fields of the setting that differ from `default_setting()`.

    Args:
        told: the plan.
        said: lines for whoever reads the file; the dispatching table has room for them.
    """
    wide = BITS[told.precision] == 16
    setting: dict[str, Any] = {
        "version": _VERSION,
        "signature": _SIGNATURE,
        "dispatching_table": {
            "intro_0": list(said),
            "dispatchings": {
                name: PLATFORMS[told.target][precision] for name, precision in told.table.items()
            },
        },
        "dispatcher": "allin",
        "quantize_activation_setting": {
            "calib_algorithm": told.observer or ("minmax" if wide else "kl")
        },
        "quantize_parameter_setting": {
            "calib_algorithm": "minmax" if wide else None,
            "baking_parameter": False,
            "clip_visiblity": _SHOWN,
            "pad_visiblity": _SHOWN,
        },
        "fusion_setting": {
            "align_elementwise_to": "Align to Output",
            "force_alignment_overlap": False,
        },
    }
    if told.splits:
        setting["weight_split"] = True
        setting["weight_split_setting"] = {
            "interested_layers": [layer for layer, _ in told.splits],
            "value_threshold": min(threshold for _, threshold in told.splits),
            "method": "balance",
        }
    if told.scales:
        setting["quant_config_modify"] = True
        setting["quant_config_modify_setting"] = {"custom_config": told.output_scales}
    return setting
