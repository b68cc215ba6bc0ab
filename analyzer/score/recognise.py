# SPDX-License-Identifier: Apache-2.0
"""Which task a graph does: told from its outputs, or checked against what the user says.

Where the outputs could mean several things the answer is none: no score rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, Literal

from analyzer.config import Task
from analyzer.errors import ConfigError
from analyzer.records import Model
from analyzer.score.ends import End, ends_of
from analyzer.score.find_heads import find_heads
from analyzer.score.heads import Heads

_VECTOR_WORDS: Final = ("embed", "feature", "descriptor", "pooler", "hidden_state")
_NUMBER_WORDS: Final = (
    "landmark",
    "keypoint",
    "point",
    "coord",
    "pose",
    "box",
    "angle",
    "regress",
)
_PROBABILITIES: Final = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_NORMALIZERS: Final = frozenset({"LpNormalization", "Div"})  # x / |x|
_LOGITS: Final = frozenset({"Gemm", "MatMul", "Add", "Conv", "GlobalAveragePool", "ReduceMean"})
_VECTOR_STEP: Final = (
    64  # embeddings have 128, 256, 384, 512 ... numbers; class counts hardly ever
)


@dataclass(frozen=True, slots=True)
class Answers:
    """What is judged, and how.

    Attributes:
        kind: of answer that the outputs give.
        ends: outputs to look at, each by itself.
        heads: of a detector.
    """

    kind: Literal["classification", "detection", "embedding", "tokens", "pixels"]
    ends: tuple[End, ...] = ()
    heads: Heads | None = None


def recognise(model: Model, task: Task) -> Answers | None:
    """Return what the outputs of a bound model answer; None where that is not clear.

    Raises:
        ConfigError: if the user names a task that the outputs do not fit.
    """
    if task == "none":
        return None
    ends = [end for end in ends_of(model) if prod(end.shape)]
    if task == "auto":
        return _told(model, ends)
    found = {
        "classification": lambda: _each("classification", [e for e in ends if classes_of(e)]),
        "detection": lambda: _detections(model),
        "embedding": lambda: _each("embedding", [e for e in ends if e.is_float and e.shape]),
        "tokens": lambda: _each("tokens", [e for e in ends if e.is_float and len(e.shape) >= 2]),
    }[task]()
    if found is None:
        shapes = ", ".join(f"{end.name} {list(end.shape)}" for end in ends)
        raise ConfigError(
            f"--task {task} does not fit the outputs: {shapes or 'none is left'}.", _FORMS[task]
        )
    return found


def classes_of(end: End) -> int:
    """Return between how many classes each row of an output decides, 1 for yes or no; or 0.

    (N, C) and (N, C, 1, 1), or (C,) for a single row.
    """
    shape = end.shape if len(end.shape) != 1 else (1, *end.shape)
    if not end.is_float or len(shape) < 2 or prod(shape[2:]) != 1:
        return 0
    return shape[1]


def _told(model: Model, ends: Sequence[End]) -> Answers | None:
    """Tell the task from shapes, names and operators."""
    floats = [end for end in ends if end.is_float]
    return (
        _detections(model)
        or _tokens(model, floats)
        or _each("pixels", [end for end in ends if pixel_axis(model, end) is not False])
        or _rows(model, floats)
    )


def _detections(model: Model) -> Answers | None:
    heads = find_heads(model)
    return Answers("detection", heads=heads) if heads is not None else None


def _tokens(model: Model, floats: Sequence[End]) -> Answers | None:
    """Logits (N, T, V) over a vocabulary, of a model that reads (N, T) whole numbers."""
    read = {
        model.shapes.get(spec.name)
        for spec in model.inputs
        if model.dtypes.get(spec.name, spec.dtype).startswith(("int", "uint"))
    }
    found = [
        end
        for end in floats
        if len(end.shape) == 3
        and end.shape[:2] in read
        and end.shape[2] > 1
        and not end.mentions(*_VECTOR_WORDS)
        and end.operator not in ("LayerNormalization", "Tanh")
    ]
    return _each("tokens", found[:1])


def pixel_axis(model: Model, end: End) -> int | Literal[False] | None:
    """Return the axis of the classes of a segmentation; None: they are written out; False: none.

    It is a map as large as the picture that ends in a Softmax or ArgMax over classes.
    """
    pictures = [s for s in (model.shapes.get(i.name, ()) for i in model.inputs) if len(s) == 4]
    if len(pictures) != 1 or len(end.shape) < 3:
        return False
    sides = {pictures[0][1:3], pictures[0][2:4]}
    if end.operator == "ArgMax" and not end.is_float:
        squeezed = tuple(n for n in end.shape[1:] if n > 1)
        return None if squeezed in sides else False
    if end.operator != "Softmax" or len(end.shape) != 4:
        return False
    if end.shape[2:] in sides:
        return 1
    return 3 if end.shape[1:3] in sides else False


def _rows(model: Model, floats: Sequence[End]) -> Answers | None:
    """Vectors, one per row: classes if all of them are, embeddings if all of them are."""
    if not floats or not all(classes_of(end) for end in floats):
        return None
    inputs = {model.shapes.get(spec.name) for spec in model.inputs}
    kinds = {_row_kind(end, inputs) for end in floats}
    return _each(kinds.pop(), list(floats)) if len(kinds) == 1 else None


def _row_kind(
    end: End, inputs: Collection[tuple[int, ...] | None]
) -> Literal["classification", "embedding"] | None:
    if end.operator in _PROBABILITIES:
        return "classification"
    # an autoencoder gives back what it was given
    if end.shape in inputs or end.mentions(*_NUMBER_WORDS):
        return None
    width = classes_of(end)
    if end.mentions(*_VECTOR_WORDS) or (end.operator in _NORMALIZERS and width > 1):
        return "embedding"
    if width >= 2 * _VECTOR_STEP and width % _VECTOR_STEP == 0:
        return "embedding"
    # a single number without a Sigmoid is as likely a quantity
    return "classification" if end.operator in _LOGITS and width > 1 else None


def _each(kind: str | None, ends: Sequence[End]) -> Answers | None:
    return Answers(kind, tuple(ends)) if kind and ends else None  # type: ignore[arg-type]  # one of the names


_FORMS: Final = {
    "classification": "Expected values of classes, (N, C).",
    "detection": "Expected (N, 4 + classes, A), (N, A, 5 + classes), a pair of maps of boxes and"
    " scores per stride, or boxes (N, A, 4) with probabilities (N, A, classes).",
    "embedding": "Expected vectors, (N, D).",
    "tokens": "Expected logits (N, T, V) over a vocabulary.",
}
