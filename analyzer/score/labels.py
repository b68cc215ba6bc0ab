# SPDX-License-Identifier: Apache-2.0
"""True answers from a file: a .csv of classes, a folder of YOLO text files, or a COCO .json.

Answers belong to samples by name: the file's, with or without its ending, and as much of the
folders above it as is needed to tell two apart; or the number of a row, from 0 on, in arrays.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeVar

import numpy as np

from analyzer.errors import ConfigError
from analyzer.score.average_precision import Truth

Answer = TypeVar("Answer")
Found = Sequence[tuple[str, Answer]]  # names in full, and what stands there for them

_NAME_COLUMNS: Final = ("image", "name", "file", "filename", "path", "index", "sample", "id")
_CLASS_COLUMNS: Final = ("class_index", "label", "class", "class_id", "target", "category", "y")
_ENDINGS: Final = frozenset(".png .jpg .jpeg .bmp .npy .npz .txt .gif .webp .tif .tiff".split())
_KINDS: Final = (
    "Give a .csv of names and class numbers, a folder of YOLO .txt files, or a COCO .json."
)


def kind_of(path: Path) -> Literal["classes", "boxes"]:
    """Tell what a file or folder of labels holds.

    Raises:
        ConfigError: if there is none of a kind that is known.
    """
    if path.is_dir():
        return "boxes"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.", _KINDS)
    kinds: dict[str, Literal["classes", "boxes"]] = {".csv": "classes", ".json": "boxes"}
    if path.suffix.lower() not in kinds:
        raise ConfigError(f"{path} is no file of labels that is known.", _KINDS)
    return kinds[path.suffix.lower()]


def read_classes(path: Path, names: Sequence[str]) -> Mapping[str, int]:
    """Read the classes of some samples; those without one are left out.

    Args:
        path: of a .csv.
        names: of the samples.

    Raises:
        ConfigError: if it cannot be read, or knows none of them.
    """
    return _matched(path, _read_csv(path), names)


def read_boxes(path: Path, names: Sequence[str]) -> Mapping[str, Truth]:
    """Read the boxes of some samples, in shares of the picture; those without are left out.

    Args:
        path: of a folder or a .json.
        names: of the samples.

    Raises:
        ConfigError: if it cannot be read, or knows none of them.
    """
    if not path.is_dir():
        return _matched(path, _read_coco(path), names)
    files = _matched(path, _text_files(path), names)
    return {name: _read_yolo(file) for name, file in files.items()}


def _matched(path: Path, found: Found[Answer], names: Sequence[str]) -> dict[str, Answer]:
    """Return the answers by sample; samples without one are left out."""
    by_stem: dict[str, list[tuple[str, Answer]]] = {}
    for name, answer in found:
        by_stem.setdefault(_parts(name)[0], []).append((name, answer))
    matched = {}
    for name in names:
        nearest = _nearest(path, name, by_stem.get(_parts(name)[0], []))
        if nearest is not None:
            matched[name] = nearest[1]
    if not matched:
        first = f"the first one there is for {found[0][0]!r}" if found else "there is none at all"
        raise ConfigError(
            f"{path} has no label for any sample: the first sample is {names[0]!r}, {first}.",
            "Name labels as the pictures, or by row number, from 0 on, for arrays.",
        )
    return matched


def _nearest(path: Path, name: str, found: Found[Answer]) -> tuple[str, Answer] | None:
    """Return the entry whose folders agree best with those of `name`."""
    if len(found) < 2:
        return found[0] if found else None
    shared = [_in_common(name, other) for other, _ in found]
    best = [entry for entry, count in zip(found, shared, strict=True) if count == max(shared)]
    if len(best) > 1:
        raise ConfigError(
            f"{path} has two labels for sample {name!r}: those of {best[0][0]!r} and"
            f" {best[1][0]!r}.",
            "Give every name once, with as many folders as tell the pictures apart.",
        )
    return best[0]


def _read_csv(path: Path) -> list[tuple[str, int]]:
    """Read rows of a name and a class; a header tells which columns they are."""
    lines = csv.reader(_text(path).splitlines())
    rows = [(line, row) for line, row in enumerate(lines, start=1) if any(row)]
    if not rows:
        raise ConfigError(f"{path} is empty.", "Expected lines such as picture.jpg,3.")
    header = [cell.strip().lower() for cell in rows[0][1]]
    has_header = not any(_is_whole(cell) for cell in header[1:])
    name, label = _columns(path, header) if has_header else (0, 1)
    found: list[tuple[str, int]] = []
    for line, row in rows[has_header:]:
        text = row[label].strip() if len(row) > max(name, label) else ""
        if not _is_whole(text):
            raise ConfigError(
                f"{path}, line {line}: {text!r} is no class number.",
                "Expected a whole number from 0 on, as the model counts its classes.",
            )
        found.append((row[name].strip(), int(text)))
    return found


def _columns(path: Path, header: Sequence[str]) -> tuple[int, int]:
    """Return where names and classes stand: under a known heading, else first and second."""
    if len(header) < 2:
        raise ConfigError(
            f"{path} has {len(header)} column, expected a name and a class.",
            "Separate them by a comma.",
        )
    name = next((header.index(c) for c in _NAME_COLUMNS if c in header), 0)
    known = (header.index(c) for c in _CLASS_COLUMNS if c in header and header.index(c) != name)
    return name, next(known, 1 if name == 0 else 0)


def _text_files(path: Path) -> list[tuple[str, Path]]:
    """Return YOLO text files; lists of pictures or class names beside them match no sample."""
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise ConfigError(f"{path}/ has no .txt files.", _KINDS)
    return [(file.relative_to(path).as_posix(), file) for file in files]


def _read_yolo(path: Path) -> Truth:
    """Read class, centre x and y, width and height, in shares of the picture, line by line.

    A longer line is the outline of an object: pairs of x and y.
    """
    boxes, classes = [], []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *values = map(float, line.split())
        except ValueError:
            kind, values = -1.0, []
        is_outline = len(values) >= 6 and len(values) % 2 == 0
        if kind < 0 or kind != int(kind) or not (len(values) == 4 or is_outline):
            raise ConfigError(
                f"{path}, line {number}: {line[:60]!r} is no box.",
                "Expected class, centre x, centre y, width, height, in shares of the picture.",
            )
        if is_outline:
            xs, ys = values[::2], values[1::2]
            boxes.append([min(xs), min(ys), max(xs), max(ys)])
        else:
            x, y, width, height = values
            boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        classes.append(int(kind))
    return _truth(boxes, classes, [False] * len(boxes))


def _read_coco(path: Path) -> list[tuple[str, Truth]]:
    """Read COCO annotations; categories, in the order of their ids, are classes 0, 1, 2 ..."""
    text = _text(path)
    try:
        table = json.loads(text)
        kinds = {c["id"]: k for k, c in enumerate(sorted(table["categories"], key=_id))}
        by_image: dict[Any, list[tuple[list[float], int, bool]]] = {
            image["id"]: [] for image in table["images"]
        }
        for each in table["annotations"]:
            crowd = bool(each.get("iscrowd", 0))
            by_image[each["image_id"]].append((each["bbox"], kinds[each["category_id"]], crowd))
        images = table["images"]
        return [(str(i["file_name"]), _coco_truth(i, by_image[i["id"]])) for i in images]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no COCO file of boxes: {type(error).__name__}: {error}.",
            "Expected images, annotations and categories.",
        ) from error


def _coco_truth(image: Mapping[str, Any], found: Sequence[tuple[list[float], int, bool]]) -> Truth:
    """Turn left, top, width and height in pixels into shares of the picture."""
    scale = np.array([image["width"], image["height"]] * 2, dtype=np.float64)
    corners = [[x, y, x + w, y + h] / scale for (x, y, w, h), _, _ in found]
    return _truth(corners, [kind for _, kind, _ in found], [crowd for *_, crowd in found])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", "Expected UTF-8 text.") from error


def _truth(boxes: Sequence[Any], classes: Sequence[int], is_crowd: Sequence[bool]) -> Truth:
    return Truth(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(classes, dtype=np.intp),
        np.array(is_crowd, dtype=bool),
    )


def _in_common(one: str, two: str) -> int:
    """Count the trailing parts that two names share."""
    count = 0
    for first, second in zip(_parts(one), _parts(two), strict=False):
        if first != second:
            break
        count += 1
    return count


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a name from the last one up, without the ending of a file."""
    path = PurePosixPath(name.replace("\\", "/"))
    path = path.with_suffix("") if path.suffix.lower() in _ENDINGS else path
    return path.parts[::-1] or ("",)


def _is_whole(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdigit()


def _id(category: Mapping[str, Any]) -> Any:  # Any: numbers or texts
    return category["id"]
