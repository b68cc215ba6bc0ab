# SPDX-License-Identifier: Apache-2.0
"""Errors: one tree, a message and a remedy, the nearest name."""

from __future__ import annotations

import pytest

from analyzer import errors
from analyzer.errors import QAnalyzeError, nearest

CHILDREN = ["ModelError", "DataError", "TargetError", "ConfigError", "ExportError", "StoreError"]


@pytest.mark.parametrize("name", CHILDREN)
def test_every_error_is_ours(name):
    """Catching the base catches all, and the tree in the docstring names each."""
    assert issubclass(getattr(errors, name), QAnalyzeError)
    assert name in errors.__doc__


def test_the_tree_is_complete():
    """No class of the module is missing above."""
    found = [
        n
        for n, v in vars(errors).items()
        if isinstance(v, type) and v.__module__ == errors.__name__
    ]
    assert set(found) == {*CHILDREN, "QAnalyzeError"}


def test_an_error_says_what_happened_and_what_to_do():
    """Both sentences are kept apart and printed together."""
    error = QAnalyzeError("It is 3.", "Make it 4.")
    assert (error.message, error.remedy, str(error)) == (
        "It is 3.",
        "Make it 4.",
        "It is 3. Make it 4.",
    )
    assert str(QAnalyzeError("It is 3.")) == "It is 3."


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("minmx", "Did you mean 'minmax'?"), ("zzz", "Known: kl, minmax.")],
)
def test_the_nearest_name_or_all_of_them(value, sentence):
    """A typo gets one name, anything else the whole list in order."""
    assert nearest(value, ["minmax", "kl"]) == sentence
