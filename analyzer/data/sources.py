# SPDX-License-Identifier: Apache-2.0
"""From the text behind `--calib` or `--eval` to a data set: which kind of data is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from analyzer.data import arrays, fitting, images
from analyzer.data.arrays import ArraySource
from analyzer.data.cache import SampleCache
from analyzer.data.dataset import CACHE_BYTES, Dataset
from analyzer.data.fitting import Shape
from analyzer.data.generators import StreamSource
from analyzer.data.images import ImageSource
from analyzer.data.preprocess import TOML_NAME, check_settings, resolve
from analyzer.errors import ConfigError, DataError
from analyzer.records import TensorSpec

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_CODE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_KINDS: Final = (
    "Give a folder of images or of .npy or .npz files, one such file, a folder with ONNX"
    " test_data_set_* folders, or module:function."
)


def open_data(
    spec: str,
    inputs: tuple[TensorSpec, ...],
    *,
    role: str,
    metadata: Mapping[str, str] = _NOTHING,
    preset: str | None = None,
    overrides: Mapping[str, object] = _NOTHING,
    limit: int | None = None,
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> Dataset:
    """Find out what `spec` names, and check it against the model.

    Args:
        spec: a path, or `module:function` (imported with the working directory on `sys.path`).
        inputs: of the model.
        role: "calibration" or "analysis".
        metadata: `metadata_props` of the model.
        preset: how images are prepared: a name out of `PRESETS`.
        overrides: single fields of `Preprocess`, see `resolve_preprocess`.
        limit: use the first samples only; None: all.
        shapes: input name -> shape of one run (`--shape`); chooses the axes the model leaves free.

    Raises:
        DataError: if there is nothing to read, or it does not fit the model.
        ConfigError: for a wrong preset, preprocessing value or shape.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"The number of samples is {limit}.", "Expected at least 1.")
    bound = fitting.bind(inputs, shapes)
    for each in inputs:
        fitting.numpy_dtype(each)
    path = Path(spec).expanduser()
    if not path.exists():
        if not _CODE.fullmatch(spec):
            raise DataError(f"{spec} does not exist.", _KINDS)
        return _open_stream(spec, bound, role, limit, _ignored(preset, overrides))
    files = _images(path, inputs)
    if not files:
        source = ArraySource(path, inputs, bound)
        ignored = _ignored(preset, overrides)
        return Dataset(source, origin=spec, role=role, limit=limit, warnings=ignored)
    return _open_images(
        path, files, bound, spec, role, metadata, preset=preset, overrides=overrides, limit=limit
    )


def _open_stream(
    spec: str,
    inputs: tuple[TensorSpec, ...],
    role: str,
    limit: int | None,
    warnings: list[str],
) -> Dataset:
    cache = SampleCache(CACHE_BYTES)
    source = StreamSource(spec, inputs, limit=limit, cache=cache)
    return Dataset(source, origin=spec, role=role, warnings=warnings, cache=cache)


def _open_images(
    path: Path,
    files: list[Path],
    inputs: tuple[TensorSpec, ...],
    spec: str,
    role: str,
    metadata: Mapping[str, str],
    *,
    preset: str | None,
    overrides: Mapping[str, object],
    limit: int | None,
) -> Dataset:
    if len(inputs) > 1:
        names = fitting.join([each.name for each in inputs])
        raise DataError(
            f"{spec} holds images, but the model has {len(inputs)} inputs: {names}.",
            "Give .npz files with one key per input, or module:function.",
        )
    folder = path if path.is_dir() else path.parent
    toml = folder / TOML_NAME
    resolved = resolve(
        inputs[0],
        metadata,
        preset=preset,
        overrides=overrides,
        toml=toml if toml.is_file() else None,
    )
    source = ImageSource(
        folder,
        files,
        inputs[0],
        resolved.preprocess,
        preprocessing=f"{resolved.preprocess} (from {resolved.origin})",
        limit=limit,
    )
    warnings = []
    if resolved.is_guess:
        warnings.append(
            f"How images are prepared is a guess: {resolved.preprocess}. Name what the model was"
            f" trained with by --preset, or in [preprocess] of {TOML_NAME} beside the data."
        )
    return Dataset(
        source,
        origin=spec,
        role=role,
        limit=limit,
        available=source.available,
        warnings=warnings,
    )


def _images(path: Path, inputs: tuple[TensorSpec, ...]) -> list[Path]:
    """Return the image files at `path`; empty if it holds arrays.

    Raises:
        DataError: if it holds neither, or both.
    """
    if path.is_file():
        if images.is_image(path):
            return [path]
        if path.suffix.lower() in (".npy", ".npz"):
            return []
        raise DataError(
            f"{path} is neither an image (PNG, JPEG, BMP) nor an .npy or .npz file.", _KINDS
        )
    if arrays.has_test_data(path) or arrays.has_input_folders(path, inputs):
        return []
    stored = arrays.array_files(path)
    if stored:
        mixed = next((entry for entry in path.iterdir() if images.is_image(entry)), None)
        if mixed is not None:
            raise DataError(
                f"{path} holds both images ({mixed.name}) and arrays ({stored[0].name}), expected"
                " one kind.",
                "Move one kind to a folder of its own.",
            )
        return []
    files = images.image_files(path)
    if not files:
        expected = "; ".join(
            f"{fitting.expected_shape(each)} for input {each.name!r}" for each in inputs
        )
        raise DataError(
            f"{path}/ has no .npy, .npz or image files. Expected batches shaped {expected}.",
            _KINDS,
        )
    return files


def _ignored(preset: str | None, overrides: Mapping[str, object]) -> list[str]:
    """Say which settings do nothing here; wrong ones are errors all the same."""
    check_settings(preset, overrides)
    given = [name for name, value in overrides.items() if value is not None]
    if preset is not None:
        given.insert(0, "preset")
    if not given:
        return []
    return [f"Arrays are used as they are: {', '.join(given)} concerns images only."]
