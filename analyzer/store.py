# SPDX-License-Identifier: Apache-2.0
"""Analysis in, `analysis.json` out, and back again without losing a bit.

The file is a contract (`schema_version` 1): the keys listed in `_CONTRACT` are always there, in
that order.  Fields that the records have beyond it follow them; a file without those still loads.

JSON has no infinity and no NaN: they are the strings "inf", "-inf" and "nan".  null means that a
value was not measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import secrets
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np

from analyzer.errors import StoreError
from analyzer.records import (
    Analysis,
    Change,
    DataInfo,
    Finding,
    LayerError,
    OutputError,
    Proposal,
    Provenance,
    Quantizer,
    QuantPlan,
)

SCHEMA_VERSION = 1

_CONTRACT: dict[type, str] = {
    Analysis: "provenance outputs layers plan findings proposals timing peak_rss_bytes",
    Provenance: "tool_version command model target data seed config versions",
    DataInfo: "role count sha256 shapes",
    OutputError: "name nsr sqnr_db cosine isolated_sum additivity",
    LayerError: (
        "name source_nodes op_type computing macs precision graphwise_nsr local_nsr isolated_nsr "
        "isolated_ci isolated_by_output parts group status findings"
    ),
    QuantPlan: "quantizers",
    Quantizer: (
        "node slot tensor role bits signed symmetric axis scale zero_point qmin qmax rounding "
        "group active"
    ),
    Finding: "code layer evidence advice",
    Proposal: "name recommended changes cost outputs_before outputs_after task_before task_after",
    Change: "kind layer from to cost predicted_nsr measured_nsr",
}
_KEYS = {"before": "from", "after": "to"}  # reserved or clumsy as field names of `Change`
_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_RERUN = "Run qanalyze again on the model to write a new one."


def to_json(analysis: Analysis) -> str:
    """Return the analysis as JSON text: one layer, quantizer, source and finding per line.

    Equal analyses give equal text.  Mappings keep their order.
    """
    document = {"schema_version": SCHEMA_VERSION, **_encode(analysis)}
    text = "{" + ",\n".join(_entry(key, value) for key, value in document.items()) + "}\n"
    # A lone surrogate (an undecodable byte in a path) has no UTF-8 form; its JSON escape has.
    return re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text)


def write_json(analysis: Analysis, path: Path) -> None:
    """Write `to_json(analysis)` to `path`, all of it or nothing.

    Raises:
        StoreError: if the folder or the disk refuses; a previous file is then untouched.
    """
    write_files({path: to_json(analysis)})


def load_analysis(path: Path) -> Analysis:
    """Read a file that `write_json` wrote.

    Per-tensor scales and zero points come back as arrays of one element, shape (1,).

    Raises:
        StoreError: if the file cannot be read, is not JSON, has another schema version, lacks a
            key or holds a value of the wrong type.
    """
    path = Path(path)
    document = _read(path)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        found = "no schema_version" if version is None else f"schema_version {version!r}"
        raise StoreError(
            f"'{path}' has {found}, expected {SCHEMA_VERSION}.",
            "Use the qanalyze release that wrote it, or run qanalyze again on the model.",
        )
    try:
        analysis: Analysis = _decode(Analysis, document, "")
        if all(output.slice_of is not None for output in analysis.outputs):
            names = [output.name for output in analysis.outputs]
            raise _WrongValueError("outputs", "at least one graph output", names)
    except _WrongValueError as error:
        raise StoreError(f"'{path}' is not a complete analysis: {error}.", _RERUN) from error
    return analysis


def write_files(files: Mapping[Path, str | bytes]) -> None:
    """Write files, text as UTF-8, each one whole: first beside its place, then moved into it.

    Nothing is moved before everything is written, so that a full disk leaves all previous files
    as they were.  Missing folders are created.

    Raises:
        StoreError: if a folder or the disk refuses.
    """
    waiting: list[tuple[Path, Path]] = []
    target = Path()
    try:
        for target, content in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(21, "a folder of that name is in the way")
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
            waiting.append((temporary, target))
            # "xb" and not mkstemp: the file shall have the permissions of any other new file.
            with temporary.open("xb") as stream:
                stream.write(
                    content.encode("utf-8", "backslashreplace")
                    if isinstance(content, str)
                    else content
                )
        for temporary, target in waiting:
            os.replace(temporary, target)
    except OSError as error:
        raise StoreError(
            f"'{target}' cannot be written: {error.strerror or error}.",
            "Free some space or choose another folder with --out.",
        ) from error
    finally:
        for temporary, _ in waiting:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _entry(key: str, value: Any, margin: str = "") -> str:
    """One `"key": value` of an object: lists of objects get a line per item, the rest one line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = f",\n{margin}  ".join(_dumps(item) for item in value)
        return f"{margin}{_dumps(key)}: [\n{margin}  {lines}]"
    if key in {"provenance", "plan", "balance"} and isinstance(value, dict) and not margin:
        inner = ",\n".join(_entry(k, v, " ") for k, v in value.items())
        return f"{_dumps(key)}: {{\n{inner}}}"
    return f"{margin}{_dumps(key)}: {_dumps(value)}"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


# Any, here and below: JSON values, whose type is known only at run time.
def _encode(record: Any) -> dict[str, Any]:
    kind: Any = type(record)
    hints = _hints(kind)
    return {
        _key(name): _encode_value(getattr(record, name), hints[name], record)
        for name in _fields(kind)
    }


def _encode_value(value: Any, hint: Any, record: Any = None) -> Any:
    if dataclasses.is_dataclass(value):
        return _encode(value)
    if isinstance(value, np.ndarray):
        if value.size == 1 and getattr(record, "axis", None) is None:
            value = value.reshape(())
        finite = bool(np.isfinite(value).all())  # thousands of scales: spare a look at each
        return value.tolist() if finite else _encode_value(value.tolist(), hint)
    if isinstance(value, np.generic):
        return _encode_value(value.item(), hint)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, str) and hint is Any and value.lstrip("\\") in _SPECIAL:
        return "\\" + value  # the text "inf" where a number would be allowed too
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        inner = Any if hint is Any else typing.get_args(hint)[1]
        return {str(key): _encode_value(item, inner) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_value(item, Any if hint is Any else None) for item in value]
    return value


def _key(field: str) -> str:
    """The name of a record's field in the file."""
    return _KEYS.get(field, field)


@functools.cache
def _hints(record: Any) -> dict[str, Any]:
    return typing.get_type_hints(record)


@functools.cache
def _fields(record: Any) -> tuple[str, ...]:
    """Field names of a record in the order of the file: the contract first, then the others."""
    fields = (f for f in dataclasses.fields(record) if f.metadata.get("saved", True))
    names = [field.name for field in fields]
    contract = _CONTRACT.get(record, "").split()
    known = [name for name in names if _key(name) in contract]
    known.sort(key=lambda name: contract.index(_key(name)))
    return (*known, *(name for name in names if name not in known))


@functools.cache
def _required(record: type) -> frozenset[str]:
    """Field names that a file must have: the contract, and whatever has no default value."""
    contract = _CONTRACT.get(record, "").split()
    return frozenset(
        field.name
        for field in dataclasses.fields(record)
        if _key(field.name) in contract
        or (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
    )


class _WrongValueError(Exception):
    """A value that does not fit: where it is, what was expected, what was found."""

    def __init__(self, where: str, expected: str, value: object) -> None:
        found = repr(value)
        found = found if len(found) <= 40 else found[:37] + "..."
        super().__init__(f"'{where or 'the file'}' is {found}, expected {expected}")


class _MissingKeyError(_WrongValueError):
    def __init__(self, where: str) -> None:
        Exception.__init__(self, f"'{where}' is missing")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"'{path}' cannot be read: {error.strerror or error}.", "Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise StoreError(f"'{path}' is not UTF-8 text, expected JSON.", _RERUN) from error
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise StoreError(f"'{path}' is not valid JSON: {reason}.", _RERUN) from error
    if not isinstance(document, dict):
        raise StoreError(f"'{path}' is not an analysis, expected a JSON object.", _RERUN)
    return document


def _refuse(constant: str) -> float:
    raise ValueError(f"the bare word {constant}")


def _decode(hint: Any, value: Any, where: str) -> Any:
    """Turn a JSON value into what the type hint says.

    Raises:
        _WrongValueError: if it does not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _decode_any(value)
    if dataclasses.is_dataclass(hint):
        return _decode_record(typing.cast("type", hint), value, where)
    if origin in (types.UnionType, Union):
        return None if value is None else _decode(_without_none(args), value, where)
    if origin is Literal:
        return _check(value in args, value, where, " or ".join(map(repr, args)))
    if hint is float:
        return _decode_float(value, where)
    if hint in (str, bool, int):
        fits = isinstance(value, hint) and (hint is not int or not isinstance(value, bool))
        names = {str: "text", bool: "true or false", int: "a whole number"}
        return _check(fits, value, where, names[hint])
    if origin is np.ndarray:
        return _decode_array(args[1].__args__[0], value, where)
    if origin in (tuple, frozenset):
        return _decode_sequence(origin, args, value, where)
    assert issubclass(origin, Mapping), hint
    _check(isinstance(value, dict), value, where, "an object")
    return {key: _decode(args[1], item, f"{where}.{key}") for key, item in value.items()}


def _decode_record(record: type, value: Any, where: str) -> Any:
    _check(isinstance(value, dict), value, where, "an object")
    hints, required = _hints(record), _required(record)
    found: dict[str, Any] = {}
    for name in _fields(record):
        key = _key(name)
        place = f"{where}.{key}" if where else key
        if key in value:
            found[name] = _decode(hints[name], value[key], place)
        elif name in required:
            raise _MissingKeyError(place)
    return record(**found)


def _decode_sequence(origin: type, args: tuple[Any, ...], value: Any, where: str) -> Any:
    _check(isinstance(value, list), value, where, "a list")
    if origin is tuple and args[-1] is not Ellipsis:
        _check(len(value) == len(args), value, where, f"{len(args)} values")
        hints: Iterator[Any] = iter(args)
    else:
        hints = iter([args[0]] * len(value))
    return origin(_decode(next(hints), item, f"{where}[{i}]") for i, item in enumerate(value))


def _decode_array(scalar: type[np.generic], value: Any, where: str) -> Any:
    items = _decode_nested(float if scalar is np.float64 else int, value, where)
    try:
        return np.array(items, dtype=scalar, ndmin=1)
    except (ValueError, OverflowError) as error:
        raise _WrongValueError(where, "numbers of one shape within 64 bits", value) from error


def _decode_nested(hint: type, value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_decode_nested(hint, item, f"{where}[{i}]") for i, item in enumerate(value)]
    return _decode(hint, value, where)


def _decode_float(value: Any, where: str) -> float:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    _check(fits, value, where, "a number")
    try:
        return float(value)
    except OverflowError as error:
        raise _WrongValueError(where, "a number within 64 bits", value) from error


def _decode_any(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode_any(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode_any(item) for item in value]
    if isinstance(value, str) and value.lstrip("\\") in _SPECIAL:
        return value[1:] if value.startswith("\\") else _SPECIAL[value]
    return value


def _without_none(args: tuple[Any, ...]) -> Any:
    (hint,) = (arg for arg in args if arg is not type(None))
    return hint


def _check(fits: bool, value: Any, where: str, expected: str) -> Any:
    if not fits:
        raise _WrongValueError(where, expected, value)
    return value
