# SPDX-License-Identifier: Apache-2.0
"""QA110: a Softmax whose scores or probabilities are finer than their grid.

Most probabilities of a long row lie below half a step of an 8-bit grid and become 0; and scores
that share a range with the mask (-10000, say) get steps of 40, where a step of 1 already changes a
probability by a factor of 2.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.diagnose.flow import ahead, behind, quantizers_on, readers
from analyzer.diagnose.grids import finer
from analyzer.graph.tensors import TensorRuns
from analyzer.graph.view import GraphView
from analyzer.records import Quantizer
from analyzer.targets.base import COMPUTING

LOST_MASS = 0.01  # of what the probabilities add up to, below half a step
SCORE_STEP = 0.25  # half of it changes a probability by 13 %
COUNTS = 1e-4  # probability from which a score matters
MOST = 6  # Softmax nodes that are tried one by one
_MASKING = frozenset({"Add", "Sub", "Where", "Min", "Max"})


@dataclass(slots=True)
class _Site:
    """One Softmax that a computing layer reads, and what was seen of it."""

    node: onnx.NodeProto
    scores: list[Quantizer]
    probabilities: list[Quantizer]
    values: int = 0
    below: int = 0
    mass: float = 0.0
    mass_below: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    low_that_counts: float = np.inf

    @property
    def step(self) -> float:
        """The coarsest step of the probabilities."""
        return _coarsest(self.probabilities)


def attention(case: Case) -> Iterator[Candidate]:
    """Yield scores, then probabilities, that their grids are too coarse for: all, then each."""
    view = case.view
    sites = [site for site in _sites(case, view) if site.scores or site.probabilities]
    if not sites:
        return
    _look(case, sites)
    by_kind = (
        sorted((c for site in sites for c in _scores(site)), key=lambda c: -c.evidence["step"]),
        sorted(
            (c for site in sites for c in _probabilities(site)),
            key=lambda c: -c.evidence["mass_below_half_a_step"],
        ),
    )
    for found in by_kind:
        if len(found) > 1:
            every = {key: new for c in found for key, new in c.changes.items()}
            evidence = {**found[0].evidence, "layers": [c.layer for c in found]}
            yield Candidate("QA110", None, evidence, every)
        yield from found[:MOST]


def _sites(case: Case, view: GraphView) -> Iterator[_Site]:
    for node in view.nodes.values():
        if node.op_type != "Softmax":
            continue
        if not any(view.nodes[r].op_type in COMPUTING for r in _users(view, node.output[0])):
            continue
        made = quantizers_on(case, behind(view, node.output[0]))
        yield _Site(node, _coarse_scores(case, view, node), made)


def _users(view: GraphView, tensor: str) -> Iterator[str]:
    """Yield what reads the probabilities; a Mul or Where of a dropout or a mask hands them on."""
    for reader in readers(view, tensor):
        yield reader
        node = view.nodes[reader]
        if node.op_type in ("Mul", "Where"):
            yield from readers(view, node.output[0])


def _coarse_scores(case: Case, view: GraphView, node: onnx.NodeProto) -> list[Quantizer]:
    """Return the coarse quantizers on what the Softmax reads, and on what a mask is put on."""
    tensors = ahead(view, node.input[0])
    maker = view.nodes.get(view.producer.get(tensors[-1], ""))
    if maker is not None and maker.op_type in _MASKING:
        tensors += [t for name in maker.input if name for t in ahead(view, name)]
    found = quantizers_on(case, tensors)
    return [q for q in found if q.scale is not None and float(q.scale.max()) > SCORE_STEP]


def _look(case: Case, sites: Sequence[_Site]) -> None:
    """Count what lies below half a step, and find the range of the scores that count."""
    names = [t for site in sites for t in (site.node.input[0], site.node.output[0])]
    runs = TensorRuns(case.model, names)
    for sample in case.samples:
        values = runs.run(sample)
        for site in sites:
            scores, made = (values[t] for t in (site.node.input[0], site.node.output[0]))
            _count(site, scores.astype(np.float64), made.astype(np.float64))


def _count(site: _Site, scores: npt.NDArray[Any], made: npt.NDArray[Any]) -> None:
    below = made < site.step / 2
    site.values += made.size
    site.below += int(below.sum())
    site.mass += float(made.sum())
    site.mass_below += float(made[below].sum())
    finite = scores[np.isfinite(scores)]
    counts = scores[made > COUNTS]
    if finite.size:
        site.low, site.high = min(site.low, finite.min()), max(site.high, finite.max())
    if counts.size:
        site.low_that_counts = min(site.low_that_counts, counts.min())


def _probabilities(site: _Site) -> Iterator[Candidate]:
    if not site.probabilities or not site.mass:
        return
    share, mass = site.below / site.values, site.mass_below / site.mass
    if mass < LOST_MASS:
        return
    evidence = {
        "what": "probabilities",
        "step": site.step,
        "share_below_half_a_step": share,
        "mass_below_half_a_step": mass,
    }
    changes: Changes = {q.key: finer(q) for q in site.probabilities}
    yield Candidate("QA110", site.node.name, evidence, changes)


def _scores(site: _Site) -> Iterator[Candidate]:
    if not site.scores:
        return
    loudest = max(site.scores, key=lambda q: _coarsest([q]))
    evidence: Mapping[str, Any] = {
        "what": "scores",
        "step": _coarsest([loudest]),
        "lowest": float(site.low),
        "highest": float(site.high),
        "lowest_that_counts": float(site.low_that_counts),
    }
    yield Candidate("QA110", loudest.node, evidence, {q.key: None for q in site.scores})


def _coarsest(quantizers: Sequence[Quantizer]) -> float:
    return max((float(q.scale.max()) for q in quantizers if q.scale is not None), default=0.0)
