# SPDX-License-Identifier: Apache-2.0
"""The export stage: one plan goes in, files that quantizers read come out.

Every format is a module with one function `write(order) -> Files`; `tools` says which tool each
is for.  Beside them stand `README.txt`, `names.csv`, and the FP32 model where a file asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from analyzer.errors import ExportError, nearest
from analyzer.export import (
    aimet,
    esp_ppq,
    model_explorer,
    modelopt,
    nncf,
    onnxruntime,
    pytorch,
    qdq,
    qnn,
    quark,
    rknn,
    tensorrt,
    tflite,
    tpu_mlir,
)
from analyzer.export.names import names_csv, reads
from analyzer.export.order import Files, Order
from analyzer.export.readme import readme
from analyzer.export.source import source_bytes
from analyzer.formats import FROM_ANALYSIS, SOURCE, TOOLS, own_format
from analyzer.records import Analysis

__all__ = ["ALL", "FORMATS", "check_formats", "export", "measured", "own_texts", "texts"]

ALL = "all"
_SHORT = 20_000  # characters of a file
FORMATS: dict[str, Callable[[Order], Files]] = {
    "esp-ppq": esp_ppq.write,
    "onnxruntime": onnxruntime.write,
    "qdq": qdq.write,
    "qnn": qnn.write,
    "aimet": aimet.write,
    "nncf": nncf.write,
    "tensorrt": tensorrt.write,
    "tflite": tflite.write,
    "pytorch": pytorch.write,
    "rknn": rknn.write,
    "tpu-mlir": tpu_mlir.write,
    "modelopt": modelopt.write,
    "quark": quark.write,
    "model-explorer": model_explorer.write,
}


def check_formats(names: Iterable[str]) -> tuple[str, ...]:
    """Return the formats that are asked for, each once; `("all",)` stays as it is.

    Args:
        names: as they stand on the command line, or several of them in one text.

    Raises:
        ExportError: for an unknown one, with the nearest match.
    """
    known = [*FORMATS, ALL]
    found = [part.strip() for name in names for part in name.split(",") if part.strip()]
    for name in found:
        if name not in known:
            raise ExportError(f"There is no export format {name!r}.", nearest(name, known))
    return (ALL,) if ALL in found else tuple(dict.fromkeys(found))


def export(order: Order, names: Sequence[str]) -> dict[str, str | bytes]:
    """Write one plan in several formats.

    Args:
        order: the plan.
        names: of formats, see `FORMATS`; `all`: every one that can carry the plan, and the
            README says why the others cannot.

    Returns:
        path below the export folder -> content.

    Raises:
        ExportError: if a format is unknown or, unless all are asked for, cannot carry the plan.
    """
    wanted = check_formats(names)
    if not wanted:
        return {}
    written: dict[str, Files] = {}
    refused: dict[str, str] = {}
    for name in FORMATS if wanted == (ALL,) else wanted:
        try:
            written[name] = _written(order, name)
        except ExportError as error:
            if wanted != (ALL,):
                raise
            refused[name] = str(error)
    files = _together(written)
    beside: dict[str, str | bytes] = {"names.csv": names_csv(order)}
    if reads(order) == "ours" or any(_asks_for_source(text) for text in files.values()):
        beside[SOURCE] = source_bytes(order)
    paths = {name: tuple(of_format) for name, of_format in written.items()}
    return {"README.txt": readme(order, paths, tuple(beside), refused), **beside, **files}


def measured(analysis: Analysis, original: Path, names: Sequence[str]) -> Files:
    """Write those of the formats that tell what was measured, and need no plan.

    Args:
        analysis: with or without proposals.
        original: the user's own file.
        names: of formats, see `check_formats`.
    """
    wanted = [name for name in FROM_ANALYSIS if name in names or ALL in names]
    return model_explorer.files_of(analysis, original) if wanted else {}


def texts(files: Files) -> dict[str, str]:
    """Return what of an export a report can show: texts that are short enough to be copied.

    Of a file that is not its path stands there, with an empty text.
    """
    return {
        path: content if isinstance(content, str) and len(content) <= _SHORT else ""
        for path, content in files.items()
    }


def own_texts(order: Order) -> dict[str, str]:
    """Return the same for the target's own tool alone; nothing where it cannot carry the plan."""
    try:
        return texts(_written(order, own_format(order.target.name)))
    except ExportError:
        return {}


def _written(order: Order, name: str) -> Files:
    """Return the files of one format, at least one."""
    files = FORMATS[name](order)
    if not files:
        raise ExportError(
            f"The plan changes nothing that {TOOLS[name].title} can be told.",
            "Leave it out of --export.",
        )
    return files


def _together(written: Mapping[str, Files]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for name, of_format in written.items():
        for path, content in of_format.items():
            assert path not in files, f"{name} writes {path}, which another format has written"
            files[path] = content
    return files


def _asks_for_source(content: str | bytes) -> bool:
    return isinstance(content, str) and SOURCE in content
