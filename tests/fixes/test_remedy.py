# SPDX-License-Identifier: Apache-2.0
"""Remedies on top of a setting: what each field adds to it or takes the place of."""

from __future__ import annotations

import pytest

from analyzer.fixes.remedy import Remedy, applied
from analyzer.records import Edit, Setting

ASKED = Setting(
    "kl", "int8", {"a": "int16"}, "channel", {"t": (-1.0, 1.0)}, (Edit("smoothing", ("a",)),)
)
SPLIT = Edit("weight_split", ("b",))


def remedy(**fields):
    return Remedy("kind", (), "", "", **fields)


def test_nothing_changes_nothing():
    """No remedy, or one that says nothing."""
    assert applied(ASKED, []) == ASKED
    assert applied(ASKED, [remedy()]) == ASKED


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"observer": "mse"}, {"observer": "mse"}),
        ({"granularity": "tensor"}, {"granularity": "tensor"}),
        ({"table": {"b": "fp32"}}, {"table": {"a": "int16", "b": "fp32"}}),
        ({"ranges": {"u": (0.0, 1.0)}}, {"ranges": {"t": (-1.0, 1.0), "u": (0.0, 1.0)}}),
        ({"edit": SPLIT}, {"edits": (Edit("smoothing", ("a",)), SPLIT)}),
    ],
)
def test_each_field_by_itself(fields, expected):
    """All else stays as the user asked for it."""
    found = applied(ASKED, [remedy(**fields)])
    for name in ("observer", "precision", "table", "granularity", "ranges", "edits"):
        assert getattr(found, name) == expected.get(name, getattr(ASKED, name))


def test_later_ones_stand_on_top():
    """Of the same layer, tensor or choice the last one counts; edits follow each other."""
    found = applied(
        Setting(),
        [
            remedy(observer="mse", table={"a": "int16", "b": "int16"}, ranges={"t": (-1, 1)}),
            remedy(observer="kl", table={"a": "fp32"}, edit=SPLIT),
            remedy(ranges={"t": (-2, 2)}, edit=Edit("smoothing", ("c",))),
        ],
    )
    assert found == Setting(
        "kl", None, {"a": "fp32", "b": "int16"}, None, {"t": (-2, 2)},
        (SPLIT, Edit("smoothing", ("c",))),
    )  # fmt: skip


def test_the_setting_stays_as_it_is():
    """A copy is made, of its tables as well."""
    asked = Setting(table={"a": "int16"}, ranges={"t": (0, 1)})
    applied(asked, [remedy(table={"b": "fp32"}, ranges={"u": (0, 1)}, edit=SPLIT)])
    assert asked == Setting(table={"a": "int16"}, ranges={"t": (0, 1)})


@pytest.mark.parametrize(
    ("kind", "layers", "title"),
    [
        ("precision", ("a",), "precision a: int8 → int16"),
        ("weight_split", ("a", "b", "c"), "weight split a (+2): int8 → int16"),
        ("calibration", (), "calibration all layers: int8 → int16"),
    ],
)
def test_titles(kind, layers, title):
    """One line, whatever it is about."""
    assert Remedy(kind, layers, "int8", "int16").title == title
