# SPDX-License-Identifier: Apache-2.0
"""The recommended plan against simple rules at the same cost, all simulated on the same samples.

    python tests/benchmarks/against_rules.py [--models NAME ...] [--target NAME ...]

The rules move layers to the wider precision: those of the highest isolated error first, those of
the highest graphwise error first, or random ones (the best of 20 draws), as many as fit into what
the recommended plan moves.  They are tried with the target's default calibration, as users do, and
on top of the recommended plan's own free remedies.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from all_models import CASES
from measure import SHARED, machine, table

from analyzer.config import resolve
from analyzer.errors import TargetError
from analyzer.fixes.precision import classes, wider
from analyzer.pipeline import run
from analyzer.pipeline.stages import Job, Run
from analyzer.pipeline.variants import Variants
from analyzer.records import Analysis, LayerError, Setting
from analyzer.verify import verify

MODELS = ("espdet_pico_cat", "mobilenet_v1_025_imagenet", "face_rfb320", "superres_subpixel")
DRAWS, SAMPLES = 20, 8
RULES = ("isolated", "graphwise", "random")


def main() -> None:
    """Print the share of the noise that every plan leaves; end with 1 if a rule does better."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["esp32p4", "onnxruntime"])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(CASES))
    chosen = parser.parse_args()
    print(machine())
    rows, worse = [], 0
    with tempfile.TemporaryDirectory() as name:
        for model in chosen.models:
            for target in chosen.target:
                row, lost = compared(model, target, Path(name))
                rows.append(row)
                worse += lost
                print(*row, flush=True)
    head = ["model", "target", "MACs %", "ours", *RULES, *(f"free + {rule}" for rule in RULES)]
    table(head, rows)
    raise SystemExit(worse > 0)


def compared(model: str, target: str, folder: Path) -> tuple[list[object], bool]:
    """Return one row, and whether a rule left less noise than the recommended plan."""
    where, flags = CASES[model]
    data = where if isinstance(where, Path) else where(folder)
    words = flags.replace("--", "").split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    path = SHARED / "models" / model / "model.onnx"
    config = resolve({"calib": str(data), "target": target, "budget": "10%", **given})
    analysis = run(path, config)
    best = next((p for p in analysis.proposals if p.recommended), None)
    setting, room = (best.setting, best.cost) if best else (Setting(), 0.0)
    with ExitStack() as stack:
        going = Run(path, config, None, "", stack)
        (job,) = going.calibrate(going.place(going.targets([target])))
        bench = _Bench(going, job)
        free = replace(setting, table={})
        named = {"ours": setting}
        for base, prefix in ((Setting(), ""), (free, "free + ")):
            for rule in RULES:
                named |= bench.plans(base, prefix + rule, analysis, rule, room)
        left = bench.left(named)
    found: dict[str, float] = {}
    for name, share in left.items():
        rule = name.partition("#")[0]
        found[rule] = min(share, found.get(rule, np.inf))
    columns = [found.get(p + rule, np.nan) for p in ("", "free + ") for rule in RULES]
    lost = any(share < found["ours"] * 0.999 for share in columns)
    return [model, target, 100 * room, found["ours"], *columns], lost


class _Bench:
    """Plans of one model and target, simulated on the same samples."""

    def __init__(self, going: Run, job: Job) -> None:
        self.job = job
        self.workers = going.workers
        self.variants = Variants(going, job)
        count = min(len(going.samples(1)), SAMPLES)
        picks = np.linspace(0, len(going.samples(1)) - 1, count).astype(int)
        self.samples = [going.samples(1)[int(i)] for i in picks]
        self.total = sum(job.graph.macs.values()) or 1

    def plans(
        self, base: Setting, name: str, analysis: Analysis, rule: str, room: float
    ) -> dict[str, Setting]:
        """Return the settings of one rule that cost no more than `room`."""
        (precision, *_) = wider(self.variants.target, self.job.plan.default_precision)
        orders = list(_orders(analysis.layers, rule))
        return {
            f"{name}#{n}": replace(
                base, table=dict.fromkeys(self._fitting(order, room), precision)
            )
            for n, order in enumerate(orders)
        }

    def _fitting(self, order: Sequence[str], room: float) -> list[str]:
        """Return layers from the front of an order, closed over shared scales, as they fit."""
        together, taken, spent = classes(self.job.plan), dict[str, None](), 0.0
        for layer in order[: max(len(order) // 3, 1)]:
            new = [name for name in together.get(layer, (layer,)) if name not in taken]
            cost = sum(self.job.graph.macs.get(name, 0) for name in new) / self.total
            if spent + cost <= room + 1e-9:
                taken |= dict.fromkeys(new)
                spent += cost
        return list(taken)

    def left(self, settings: dict[str, Setting]) -> dict[str, float]:
        """Return the share of the default plan's noise that each one leaves."""
        made = {}
        for name, setting in settings.items():
            try:
                made[name] = self.variants.quick(setting)
            except TargetError as error:
                print(f"  {name}: {error}")
        plans = [(self.job.graph, self.job.plan), *made.values()]
        shares = {}
        before = None
        for start in range(0, len(plans), 6):  # a session each: not all at once
            found = verify(
                self.job.graph, plans[start : start + 6], self.samples, workers=self.workers
            )
            before = before or found[0].nsr
            for number, one in enumerate(found, start):
                ratios = [one.nsr[t] / before[t] for t in before if before[t]]
                shares[number] = float(np.mean(ratios))
        return {name: shares[number] for number, name in enumerate(made, 1)}


def _orders(layers: Sequence[LayerError], rule: str) -> Iterator[list[str]]:
    """Yield orders of layers by one rule."""
    if rule == "random":
        for seed in range(DRAWS):
            names = [row.name for row in layers]
            random.Random(seed).shuffle(names)
            yield names
        return
    ranked = sorted(layers, key=lambda row: -(getattr(row, f"{rule}_nsr") or 0.0))
    yield [row.name for row in ranked]


if __name__ == "__main__":
    main()
