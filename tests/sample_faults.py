# SPDX-License-Identifier: Apache-2.0
"""The planted faults of sample_models/, made on request, and the runs that show them.

Goes in: the name of a fault.  Comes out: its files in a folder, its ground truth, and the
configuration of the run on the faulty model and on its clean twin.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
sys.path.append(str(SAMPLES))

from plant_faults import SPOTS, evidence, plant  # noqa: E402
from planters import DATA, PLANTERS, Spot  # noqa: E402

__all__ = [
    "CODES",
    "DATA",
    "KINDS",
    "NAMED",
    "OTHERS",
    "SAMPLES",
    "Planted",
    "evidence",
    "planted",
]

# Kinds that have one layer at fault, in both networks: these must be found.
KINDS = (
    "outlier_channel", "concat_ranges", "dead_channel", "outlier_values", "weight_channels",
    "shifted", "saturating_bias", "rounding",
)  # fmt: skip
CODES = {fault: code for fault, (code, _) in PLANTERS.items()}
NAMED = {spot.name: spot for spot in SPOTS if spot.fault in KINDS}
# Of the data, of the setting, of what the output is for; or in one network only.
OTHERS = {spot.name: spot for spot in SPOTS if spot.fault not in KINDS}


@dataclass(frozen=True)
class Planted:
    """One faulty model, and what is known of it.

    Attributes:
        truth: as in the JSON file.
        faulty, clean: the models.
        faulty_run, clean_run: options by the names of the command line's flags.
    """

    spot: Spot
    truth: dict[str, Any]
    faulty: Path
    clean: Path
    faulty_run: dict[str, str]
    clean_run: dict[str, str]

    def is_named_by(self, code: str, layer: str | None, nodes: tuple[str, ...] = ()) -> bool:
        """Say whether a finding has the right code, and the right layer if there is one.

        Args:
            code: of the finding.
            layer: of the finding.
            nodes: of the model's file that this layer is made of.
        """
        places = {*self.truth["layers"]}
        return code == self.truth["code"] and (not places or bool({layer, *nodes} & places))


def planted(name: str, folder: Path) -> Planted:
    """Write one faulty model and what belongs to it into a folder."""
    spot = {**NAMED, **OTHERS}[name]
    truth = plant(spot, folder)

    def at(file: str) -> Path:
        return folder / file if (folder / file).exists() else SAMPLES / file

    def options(run: dict[str, str]) -> dict[str, str]:
        return {key: str(at(v)) if key in ("calib", "eval") else v for key, v in run.items()}

    return Planted(
        spot,
        truth,
        folder / f"{name}.onnx",
        at(truth["clean"]),
        options(truth["run"]),
        options(truth["clean_run"]),
    )
