# SPDX-License-Identifier: Apache-2.0
"""Whether the planted faults of the sample models are named: what comes first in the findings.

    python tests/benchmarks/planted_faults.py [--only NAME ...] [--target NAME ...]

A finding is right if its code is the planted one and its layer one of those planted (a Concat
and what feeds it count as one).  `own` is the place of the first right finding; `twin` counts
findings of the same code on the clean twin, at the same layer and anywhere.  Faults of kinds
that have a layer in both networks come first; below are faults of the data and settings, those
of one network, and variants.  Without --target each fault runs on the one it is planted for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import ROOT, machine, qanalyze, table

sys.path.append(str(ROOT / "tests"))

from sample_faults import NAMED, OTHERS, Planted, planted

HEAD = ["fault", "target", "expected", "first", "layer", "gain", "own", "twin here", "twin"]


def main() -> None:
    """Print one row per fault and target, and how many are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="faults, or networks, or names of both")
    parser.add_argument("--target", nargs="+", default=[""])
    chosen = parser.parse_args()
    print(machine())
    for names in (NAMED, OTHERS):
        asked = [n for n, spot in names.items() if _asked(chosen.only, n, spot.fault, spot.model)]
        with tempfile.TemporaryDirectory() as folder:
            made = [(planted(name, Path(folder)), t) for name in asked for t in chosen.target]
            rows = [row(one, target, Path(folder)) for one, target in made]
        if rows:
            table(HEAD, rows)
            right = sum(line[6] == 1 for line in rows)
            quiet = sum(line[8] == 0 for line in rows)
            print(f"{right} of {len(rows)} come first; {quiet} clean twins without the code\n")


def _asked(only: list[str] | None, *names: str) -> bool:
    return not only or not {*only}.isdisjoint(names)


def row(one: Planted, target: str, folder: Path) -> list[Any]:
    """Analyse a faulty model and its clean twin, and compare the findings with the truth."""
    other = {"target": target} if target else {}
    found = analysed(one.faulty, {**one.faulty_run, **other}, folder)
    twin = analysed(one.clean, {**one.clean_run, **other}, folder)
    order = [i for i, finding in enumerate(found["findings"], 1) if right(one, found, finding)]
    first = found["findings"][0] if found["findings"] else {}
    code = one.truth["code"]
    return [
        one.spot.name,
        found["provenance"]["target"],
        code,
        first.get("code", "none"),
        first.get("layer") or "-",
        first.get("gain") if first.get("gain") is not None else "-",
        order[0] if order else "none",
        sum(right(one, twin, finding) for finding in twin["findings"]),
        sum(finding["code"] == code for finding in twin["findings"]),
    ]


def analysed(model: Path, options: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run the command and return its analysis.json."""
    flags = [part for key, value in options.items() for part in (f"--{key}", value)]
    spent, found = qanalyze(model, *flags, out=folder / "out")
    assert found is not None, spent.err
    return found


def right(one: Planted, found: dict[str, Any], finding: dict[str, Any]) -> bool:
    """Say whether a finding names the planted fault."""
    nodes = {layer["name"]: tuple(layer["source_nodes"]) for layer in found["layers"]}
    layer = finding["layer"]
    return one.is_named_by(finding["code"], layer, nodes.get(layer, ()))


if __name__ == "__main__":
    main()
