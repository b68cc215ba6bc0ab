# SPDX-License-Identifier: Apache-2.0
"""Whether the planted faults of the sample models are found: the place of the faulty layer.

    python tests/benchmarks/planted_faults.py [--target NAME ...]

A fault sits on a tensor that several layers may share (a Concat and what feeds it): the best
place of any of them counts.  Place 1 is the worst layer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from measure import SAMPLES, machine, measured, qanalyze, table

COLUMNS = ("isolated_nsr", "local_nsr")


def main() -> None:
    """Print one row per faulty model and target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["esp32p4", "onnxruntime"])
    chosen = parser.parse_args()
    print(machine())
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        for truth in sorted(SAMPLES.glob("*.json")):
            fault = json.loads(truth.read_text(encoding="utf-8"))
            data = SAMPLES / Path(fault["clean"]).stem
            for target in chosen.target:
                model = truth.with_suffix(".onnx")
                spent, found = qanalyze(
                    model, "--calib", data, "--target", target, "--layers", "all", out=Path(name)
                )
                assert found is not None, spent.err
                rows.append([truth.stem, target, *places(found, fault), worst(found)])
    head = ["model", "target", "place isolated", "place local", "with reader", "worst layer"]
    table(head, rows)


def places(found: dict, fault: dict) -> list[int | str]:
    """Return the place of the planted layers per column, then with the layer that reads them."""
    planted = set(fault["layers"])
    result = [place(found, planted, column) for column in COLUMNS]
    return [*result, place(found, {*planted, fault["reader"]}, COLUMNS[0])]


def place(found: dict, planted: set[str], column: str) -> int | str:
    """Return the best place of any planted layer in a column, 1 being the worst NSR."""
    nsr = measured(found, column)
    own = {row["name"]: {row["name"], *row["source_nodes"]} for row in found["layers"]}
    order = sorted(nsr, key=lambda name: -nsr[name])
    places = [i for i, name in enumerate(order, 1) if own[name] & planted]
    return min(places) if places else "none"


def worst(found: dict) -> str:
    """Return the layer with the largest isolated error."""
    nsr = measured(found)
    return max(nsr, key=lambda name: nsr[name])


if __name__ == "__main__":
    main()
