# SPDX-License-Identifier: Apache-2.0
"""Labels by the number of a sample: what it is called, and its answers as judges take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from analyzer.config import Config
from analyzer.data import resolve_preprocess
from analyzer.data.preprocess import TOML_NAME
from analyzer.errors import ConfigError
from analyzer.records import Model
from analyzer.samples import Chosen
from analyzer.score.average_precision import Truth
from analyzer.score.classification import Classes, ClassesOf
from analyzer.score.detection import TruthOf
from analyzer.score.heads import Heads
from analyzer.score.labels import read_boxes, read_classes
from analyzer.score.placement import picture_extent, place_boxes

_ROW_OF_A_FILE = re.compile(r" \(sample \d+\)$")


def row_names(data: Chosen, position: int, rows: int) -> list[str]:
    """Return what the rows of a sample are called in files of labels.

    The path of a picture or of a file that holds one sample; else the number of the row in all
    data, from 0 on.

    Raises:
        ConfigError: for several pictures in one sample.
    """
    index = data.indices[position]
    name = data.data.label(index)
    is_file = not _ROW_OF_A_FILE.search(name)
    if rows == 1 and is_file:
        return [name]
    if data.data.preprocessing:
        raise ConfigError(
            f"The model takes {rows} pictures at once, labels need 1.",
            "Give --shape with a batch of 1, or leave out --labels.",
        )
    return [str(index * rows + row) for row in range(rows)]


def true_classes(path: Path, data: Chosen, rows: int) -> ClassesOf:
    """Return the classes of a .csv, -1 where there is none.

    Raises:
        ConfigError: if it cannot be read, or no sample has one.
    """
    names = [row_names(data, position, rows) for position in range(len(data))]
    known = read_classes(path, [name for sample in names for name in sample])

    def of(position: int) -> Classes:
        return np.array([known.get(name, -1) for name in names[position]], dtype=np.int64)

    return of


def true_boxes(path: Path, data: Chosen, model: Model, config: Config, heads: Heads) -> TruthOf:
    """Return the boxes of a folder or .json in pixels of the input.

    Those of arrays are taken as shares of the input itself.

    Args:
        path: of the labels.
        data: the samples.
        model: bound.
        config: says how pictures are prepared.
        heads: that the boxes are held against.

    Raises:
        ConfigError: if they cannot be read, no sample has any, or a class is too high.
    """
    pictures = model.shapes[heads.outputs[0]][0]
    names = [row_names(data, position, pictures) for position in range(len(data))]
    known = read_boxes(path, [name for sample in names for name in sample])
    _check_classes(path, known, heads.classes)
    if not data.data.preprocessing:
        limits = np.array([*heads.size[::-1]] * 2, dtype=np.float32)
        scaled = {n: Truth(t.boxes * limits, t.classes, t.is_crowd) for n, t in known.items()}
        return lambda position, picture: scaled.get(names[position][picture])
    origin = Path(data.data.origin).expanduser()
    folder = origin if origin.is_dir() else origin.parent
    toml = folder / TOML_NAME
    preprocess, _ = resolve_preprocess(
        model.inputs[0],
        model.metadata,
        preset=config.preset,
        overrides=config.preprocessing,
        toml=toml if toml.is_file() else None,
    )

    def of(position: int, picture: int) -> Truth | None:
        name = names[position][picture]
        if name not in known:
            return None
        return place_boxes(known[name], picture_extent(folder / name), preprocess)

    return of


def _check_classes(path: Path, known: Mapping[str, Truth], classes: int) -> None:
    for name, truth in known.items():
        if truth.classes.max(initial=0) >= classes:
            raise ConfigError(
                f"{path}: a box of {name!r} has class {truth.classes.max()}, but the model has"
                f" {classes} classes (0 to {classes - 1}).",
                "Number the classes in the labels as the model does.",
            )
