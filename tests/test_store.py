# SPDX-License-Identifier: Apache-2.0
"""`analysis.json`: exact both ways, refused when damaged, written whole or not at all."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer import store
from analyzer.errors import StoreError
from analyzer.records import (
    Analysis,
    Attempt,
    Balance,
    Change,
    Cost,
    DataInfo,
    Edit,
    Finding,
    Interaction,
    LayerError,
    OutputError,
    Proposal,
    Provenance,
    Quantizer,
    QuantPlan,
    Setting,
    Source,
    Step,
    TaskScore,
)
from analyzer.store import load_analysis, to_json, write_files, write_json


def make(**changes: Any) -> Analysis:
    """A complete analysis with a value in every field."""
    base = Analysis(
        Provenance(
            "0.1.0", "qanalyze n.onnx", {"name": "n", "sha256": "00", "macs": 3}, "esp32p4",
            (DataInfo("analysis", 2, 5, "d", "11", {"x": (1, 2)}, "RGB", ("a.png",), "first"),),
            0, {"limit": math.inf, "text": "inf", "slash": "\\nan", "none": None, "d": [{"a": 1}]},
            {"numpy": "2"},
        ),
        (
            OutputError("y", 0.1, 10.0, 0.95, 1.5, 0.09, 0.9, 0.1),
            OutputError("y[0]", 1.0, 0.0, 0.0, 1.5, slice_of="y", lost=True),
        ),
        (
            LayerError("a", "Conv", ("a", "bn"), True, 10, "int8", 0.1, 0.99, 10.0, 2.0, 0.05, 0.1,
                       (0.09, 0.12), 4, {"y": 0.1}, {"weight": 0.5}, "g", "ok", ("QA103",),
                       ((3, 0.5), (0, 0.25))),
            LayerError("b", "Add", local_nsr=math.inf, graphwise_nsr=math.nan, status="failed"),
        ),
        QuantPlan(
            "esp32p4", ("a", "b"), frozenset({"a"}), {"a": "int8", "b": "int16"},
            (
                Quantizer("a", "in1", "w", "weight", 8, True, False, 0, np.array([0.1, 1 / 3]),
                          np.array([-128, 2**40]), -127, 127, "half_up", "g", True, "kl",
                          ("b", "out0")),
                Quantizer("a", "out0", "y", "activation", 16, scale=np.array([0.1]),
                          zero_point=np.array([3])),
                Quantizer("b", "out0", "z", "activation", 8, active=False),
            ),
            ("note",),
        ),
        (Finding("QA101", None, {"k": [1, math.nan, "x"]}, "advice", 0.25),),
        (
            Proposal(
                "p", True,
                (Change("precision", "a", "int8", "int16", 0.1, 0.2, None, ("a", "b")),), 0.1,
                {"y": 0.1}, {"y": 0.01}, {"top1": 0.5}, {"top1": 0.7},
                Cost(0.1, 0.2, -0.01, 2, 1.5, 12.25), 0.1, 1 / 3, 8, True, "because",
                Setting(
                    "mse", "int8", {"a": "int16"}, "tensor", {"y": (-1.0, math.inf)},
                    (Edit("weight_split", ("a",), "balance", 1.2),
                     Edit("equalization", ("a", "b"), values={"a": (1.0, 0.5), "b": ()})),
                ),
            ),
            Proposal("q", False, (), 0.0, {}, {"y": math.inf}),
        ),
        {"probe": 1.25, "load": 0.5},
        123,
        ("careful",),
        Balance(
            (
                Source("g", "group", ("a", "b"), (("a", "out0"), ("b", "in0")), 0.1,
                       (0.05, 0.2), 3, {"y": 0.1}, alignment_price=-0.01),
                Source("b", "layer", ("b",), (("b", "out0"),), status="not probed"),
            ),
            (
                Interaction("y", "g", None, ("b",), (0.1, math.inf), 0.3, 2),
                Interaction("y", "g", "b", (), (0.1, 0.2), 0.3, 2),
            ),
            (Step("a", 1, {"y": 0.05}), Step("b", 2, {"y": 0.1})),
        ),
        (TaskScore("top-1", 0.5, 0.75, "labels", 4, ("y",)),
         TaskScore("cosine", 0.5, None, "fp32", 4)),
        (Attempt("run 1", ("precision a", "b"), "start", None, math.inf, "dropped: idle", 2),
         Attempt("run 2", (), "run 1", 0.5, 0.25, "better", 4)),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def same(a: Any, b: Any) -> bool:
    """Equality by value that also holds for arrays and NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def reload(analysis: Analysis, folder: Path) -> Analysis:
    path = folder / "analysis.json"
    write_json(analysis, path)
    return load_analysis(path)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    """Every field comes back with its value, type and order."""
    assert same(reload(make(), tmp_path), make())


def test_text_is_deterministic(tmp_path: Path) -> None:
    """The same analysis, and the one read back, give the same bytes."""
    assert to_json(make()) == to_json(make()) == to_json(reload(make(), tmp_path))


@given(value=st.floats(allow_nan=True))
def test_any_float_survives(value: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No float loses a bit, in a typed field and in a free one."""
    folder = tmp_path_factory.mktemp("float")
    original = make(timing={"t": value}, findings=(Finding("QA1", "a", {"v": value}, ""),))
    assert same(reload(original, folder), original)


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_survives(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No name is altered: quotes, line breaks and undecodable bytes of paths included."""
    folder = tmp_path_factory.mktemp("text")
    if any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff"
           for a, b in itertools.pairwise(text)):  # fmt: skip
        return  # two halves of one character: no text that Python decodes has them
    original = make(findings=(Finding("QA1", text, {"v": text}, text),))
    assert same(reload(original, folder), original)


def test_file_keeps_the_contract() -> None:
    """Keys and shapes are those that other programs were promised."""
    document = json.loads(to_json(make()))
    assert list(document)[:9] == [
        "schema_version", "provenance", "outputs", "layers", "plan", "findings", "proposals",
        "timing", "peak_rss_bytes",
    ]  # fmt: skip
    assert document["schema_version"] == 1
    assert document["layers"][0]["isolated_ci"] == [0.09, 0.12]
    assert document["layers"][1]["isolated_nsr"] is None
    assert document["layers"][1]["local_nsr"] == "inf"
    assert document["layers"][1]["graphwise_nsr"] == "nan"
    assert document["provenance"]["data"][0]["shapes"] == {"x": [1, 2]}
    per_channel, per_tensor, none = document["plan"]["quantizers"]
    assert per_channel["scale"] == [0.1, 1 / 3]
    assert per_channel["zero_point"] == [-128, 2**40]
    assert (per_tensor["scale"], per_tensor["zero_point"]) == (0.1, 3)
    assert none["scale"] is None
    assert document["proposals"][0]["changes"][0]["from"] == "int8"
    assert document["proposals"][0]["changes"][0]["to"] == "int16"
    assert list(document["proposals"][0])[:8] == [
        "name", "recommended", "changes", "cost", "outputs_before", "outputs_after", "task_before",
        "task_after",
    ]  # fmt: skip
    assert document["proposals"][0]["setting"]["edits"][1]["values"] == {"a": [1.0, 0.5], "b": []}
    assert document["attempts"][0]["measured"] == "inf"


def test_layers_have_a_line_each() -> None:
    """A diff of two analyses points at the layers and sources that changed."""
    lines = to_json(make()).splitlines()
    assert sum('"op_type"' in line for line in lines) == 2
    assert sum('"alignment_price"' in line for line in lines) == 2
    assert sum('"verdict"' in line for line in lines) == 2


def test_fields_beyond_the_contract_may_be_missing(tmp_path: Path) -> None:
    """An older file without later fields loads, and unknown keys of a newer one are ignored."""
    document = json.loads(to_json(make()))
    for key in ("warnings", "balance", "task", "attempts"):
        del document[key]
    for key in ("costs", "left", "predicted", "samples", "front", "why", "setting"):
        del document["proposals"][0][key]
    del document["proposals"][0]["changes"][0]["layers"]
    del document["outputs"][0]["slice_of"]
    del document["findings"][0]["gain"]
    del document["layers"][0]["graphwise_cosine"]
    document["layers"][0]["from_the_future"] = 1
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    loaded = load_analysis(path)
    assert (loaded.warnings, loaded.balance, loaded.task) == ((), None, ())
    assert loaded.attempts == ()
    assert loaded.proposals[0] == Proposal(
        "p", True, (Change("precision", "a", "int8", "int16", 0.1, 0.2, None),), 0.1,
        {"y": 0.1}, {"y": 0.01}, {"top1": 0.5}, {"top1": 0.7},
    )  # fmt: skip
    assert loaded.outputs[0].slice_of is None
    assert loaded.findings[0].gain is None
    assert loaded.layers[0].graphwise_cosine is None


def damaged(edit: Any) -> str:
    document = json.loads(to_json(make()))
    edit(document)
    return json.dumps(document)


def drop(*keys: Any) -> Any:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return edit


def put(value: Any, *keys: Any) -> Any:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"schema_version": NaN}', "is not valid JSON: the bare word NaN"),
        ("[]", "expected a JSON object"),
        ("{}", "has no schema_version, expected 1"),
        ('{"schema_version": 2}', "has schema_version 2, expected 1"),
        ('{"schema_version": true}', "has schema_version True, expected 1"),
        ('{"schema_version": 1}', "'provenance' is missing"),
        (damaged(drop("layers", 1, "graphwise_nsr")), "'layers[1].graphwise_nsr' is missing"),
        (damaged(drop("outputs", 0, "nsr")), "'outputs[0].nsr' is missing"),
        (damaged(put([], "outputs")), "'outputs' is [], expected at least one graph output"),
        (damaged(put("z", "outputs", 0, "slice_of")), "is ['y', 'y[0]'], expected at least one"),
        (damaged(put("layers", "balance", "sources", 0, "kind")), "'layer' or 'group'"),
        (damaged(drop("balance", "sources", 0, "quantizers")), "quantizers' is missing"),
        (damaged(put(["a"], "balance", "sources", 0, "quantizers", 0)), "expected 2 values"),
        (damaged(put("us", "task", 0, "against")), "'fp32' or 'labels'"),
        (damaged(put("x", "outputs", 0, "nsr")), "'outputs[0].nsr' is 'x', expected a number"),
        (damaged(put(True, "outputs", 0, "nsr")), "is True, expected a number"),
        (damaged(put(10**400, "outputs", 0, "nsr")), "expected a number within 64 bits"),
        (damaged(put(1.5, "peak_rss_bytes")), "is 1.5, expected a whole number"),
        (damaged(put({}, "layers")), "'layers' is {}, expected a list"),
        (damaged(put([1], "layers")), "'layers[0]' is 1, expected an object"),
        (damaged(put([1], "layers", 0, "isolated_ci")), "is [1], expected 2 values"),
        (damaged(put("up", "plan", "quantizers", 0, "rounding")), "'half_even' or 'half_up'"),
        (damaged(put([[1], 2], "plan", "quantizers", 0, "scale")), "numbers of one shape"),
        (damaged(put(2**70, "plan", "quantizers", 0, "zero_point")), "within 64 bits"),
        (damaged(put("inf", "plan", "quantizers", 0, "zero_point")), "expected a whole number"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    """One sentence says what is wrong and where, and another what to do."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(StoreError) as caught:
        load_analysis(path)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"'{path}' ")
    assert caught.value.remedy


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text end in the same kind of error."""
    binary = tmp_path / "model.onnx"
    binary.write_bytes(b"\x08\xff\xfe")
    for path in (tmp_path / "none.json", tmp_path, binary):
        with pytest.raises(StoreError, match=r"cannot be read|not UTF-8"):
            load_analysis(path)


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs neither the previous file nor leaves a temporary one."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        write_json(make(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_bytes_are_written_beside_text_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model keeps every byte, and where the disk refuses, neither of the two is there."""
    files = {tmp_path / "a" / "m.onnx": b"\r\n\xff\x00", tmp_path / "b" / "t.txt": "\u00e4\n"}

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StoreError, match="cannot be written"):
            write_files(files)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    write_files(files)
    assert [path.read_bytes() for path in files] == [b"\r\n\xff\x00", b"\xc3\xa4\n"]


def test_impossible_places_are_refused(tmp_path: Path) -> None:
    """A file where a folder should be, or the other way round, is the user's to solve."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder"):
        with pytest.raises(StoreError, match="cannot be written"):
            write_json(make(), path)


def test_new_files_have_ordinary_permissions(tmp_path: Path) -> None:
    """A report is as readable for colleagues as any other file."""
    other = tmp_path / "other"
    other.write_text("")
    write_json(make(), tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mode == other.stat().st_mode


def test_contract_names_only_existing_fields() -> None:
    """A renamed record field cannot silently leave the contract."""
    for record, keys in store._CONTRACT.items():
        assert set(keys.split()) <= {store._key(f.name) for f in dataclasses.fields(record)}
