# SPDX-License-Identifier: Apache-2.0
"""Files that travel inside the page: texts in, compressed data URIs out, as many as fit."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass

_LONGEST = 12_000_000  # characters; what is longer would not fit even compressed


@dataclass(frozen=True, slots=True)
class Download:
    """One file.

    Attributes:
        name: of the file.
        kind: its media type.
        href: the file, compressed with gzip, as a data URI; None: it does not fit.
    """

    name: str
    kind: str
    href: str | None


def downloads(texts: Mapping[str, str], room: int) -> list[Download]:
    """Pack files into data URIs, in this order, while there is room.

    Args:
        texts: file name -> content, JSON or CSV.
        room: bytes that all URIs together may have.
    """
    found = []
    for name, text in texts.items():
        href = _packed(text) if len(text) <= _LONGEST else None
        if href is not None and len(href) > room:
            href = None
        room -= len(href or "")
        kind = "application/json" if name.endswith(".json") else "text/csv"
        found.append(Download(name, kind, href))
    return found


def _packed(text: str) -> str:
    # Without mtime=0 the time of writing would be in it.
    data = gzip.compress(text.encode("utf-8", "backslashreplace"), mtime=0)
    return f"data:application/gzip;base64,{base64.b64encode(data).decode('ascii')}"
