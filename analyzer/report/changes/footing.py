# SPDX-License-Identifier: Apache-2.0
"""What two analyses stand on: two of them in, everything that they do not have in common out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analyzer.records import Analysis, DataInfo

Topic = Literal["model", "target", "data", "setting", "tool"]

# What a configuration holds that says nothing about what was measured, or is told elsewhere.
_NO_SETTING = frozenset(
    "calib eval target quantized threads time_limit budget goal latency propose export max_nsr "
    "min_agreement no_worse_than baseline seed".split()
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the two analyses do not stand on alike."""

    topic: Topic
    what: str
    old: str
    new: str


def differences(new: Analysis, old: Analysis) -> Iterable[Difference]:
    """Say what the two do not stand on alike, the weightiest first."""
    one, other = old.provenance, new.provenance
    if one.model.get("sha256") != other.model.get("sha256"):
        yield Difference("model", "model", _model(one.model), _model(other.model))
    if one.target != other.target:
        yield Difference("target", "target", one.target, other.target)
    roles = dict.fromkeys(info.role for info in (*one.data, *other.data))
    for role in roles:
        was, is_now = (
            next((info for info in data if info.role == role), None)
            for data in (one.data, other.data)
        )
        if _digest(was) != _digest(is_now):
            yield Difference("data", f"{role} data", _data(was), _data(is_now))
    yield from _unlike("setting", one.config, other.config, "default", _NO_SETTING)
    if one.seed != other.seed:
        yield Difference("setting", "seed", str(one.seed), str(other.seed))
    before, now = ({"qanalyze": of.tool_version, **of.versions} for of in (one, other))
    yield from _unlike("tool", before, now, "none")


def measured_on(analysis: Analysis) -> str:
    """Return the digest of the samples that the errors were measured on; empty if not known."""
    data = analysis.provenance.data
    found = next((info for info in data if info.role == "analysis"), data[0] if data else None)
    return found.sha256 if found else ""


def _unlike(
    topic: Topic,
    old: Mapping[str, Any],  # Any: as JSON holds it
    new: Mapping[str, Any],
    missing: str,
    without: frozenset[str] = frozenset(),
) -> Iterable[Difference]:
    for key in dict.fromkeys((*old, *new)):
        # a key that an older release did not know is what it did: nothing
        before, now = (_said(of.get(key), missing) for of in (old, new))
        if before != now and key not in without:
            yield Difference(topic, key.replace("_", " "), before, now)


def _digest(info: DataInfo | None) -> tuple[str, int]:
    return (info.sha256, info.count) if info else ("", 0)


def _model(model: Mapping[str, Any]) -> str:  # Any: as JSON holds it
    return f"{model.get('name', 'model')} (sha256 {str(model.get('sha256', ''))[:12]})"


def _data(info: DataInfo | None) -> str:
    if info is None:
        return "none"
    return f"{info.count:,} of {info.origin} (sha256 {info.sha256[:12]})"


def _said(value: object, missing: str = "default") -> str:
    if value is None or value in ("", [], {}, ()):
        return missing
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_said(item)}" for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(_said(item) for item in value)
    return str(value)
