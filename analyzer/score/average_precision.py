# SPDX-License-Identifier: Apache-2.0
"""Average precision of detections, by the evaluator of the COCO authors.

It is an extra (`pip install qanalyze[detection]`), imported only where it is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.score.boxes import MOST_DETECTIONS, Detections, Floats, Indices


@dataclass(frozen=True, slots=True)
class Truth:
    """What there is in one picture.

    Attributes:
        boxes: (N, 4) left, top, right, bottom.
        classes: (N,).
        is_crowd: (N,) boxes around many: finding them is neither right nor wrong.
    """

    boxes: Floats
    classes: Indices
    is_crowd: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Precision:
    """Mean average precision over classes: at IoU 0.5, and over IoU 0.50, 0.55 ... 0.95."""

    at_50: float
    at_50_95: float


def has_evaluator() -> bool:
    """Tell whether the extra is installed."""
    return find_spec("pycocotools") is not None


def as_truth(found: Detections) -> Truth:
    """Take detections for what there is."""
    return Truth(found.boxes, found.classes, np.zeros(len(found), dtype=bool))


def average_precision(
    truths: Sequence[Truth], detections: Sequence[Detections]
) -> Precision | None:
    """Score detections, picture by picture; None where there is nothing to find.

    Precision is interpolated at 101 recalls.  Classes that no picture shows are left out.
    """
    annotations = [a for image, truth in enumerate(truths) for a in _annotations(image, truth)]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number  # the evaluator takes 0 for "not matched"
    classes = sorted({a["category_id"] for a in annotations if not a["iscrowd"]})
    if not classes:
        return None
    rows = _rows(detections)
    if not len(rows):
        return Precision(0.0, 0.0)
    # by name, as it has no types and need not be there
    cocoapi, evaluator = map(import_module, ("pycocotools.coco", "pycocotools.cocoeval"))
    with redirect_stdout(io.StringIO()):
        coco = cocoapi.COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truths))],
            "annotations": annotations,
            "categories": [{"id": each} for each in classes],
        }
        coco.createIndex()
        evaluation = evaluator.COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # (IoU, recall, class)
    return Precision(float(precision[0].mean()), float(precision.mean()))


def _annotations(image: int, truth: Truth) -> list[dict[str, Any]]:  # Any: the evaluator's form
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).tolist()
    columns = (truth.boxes.tolist(), sides, truth.classes.tolist(), truth.is_crowd.tolist())
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": [box[0], box[1], *side],
            "area": side[0] * side[1],
            "iscrowd": int(crowd),
        }
        for box, side, category, crowd in zip(*columns, strict=True)
    ]


def _rows(detections: Sequence[Detections]) -> npt.NDArray[np.float64]:
    """Return (N, 7): picture, left, top, width, height, score, class."""
    tables = [
        np.column_stack(
            [
                np.full(len(found), image),
                found.boxes[:, :2],
                found.boxes[:, 2:] - found.boxes[:, :2],
                found.scores,
                found.classes,
            ]
        )
        for image, found in enumerate(detections)
    ]
    return np.concatenate(tables).astype(np.float64).reshape(-1, 7)
