# SPDX-License-Identifier: Apache-2.0
"""Files inside the page: packed, the same bytes every time, and only while there is room."""

from __future__ import annotations

import base64
import gzip

from analyzer.report.html.downloads import Download, downloads


def unpacked(download: Download) -> str:
    data = (download.href or "").removeprefix("data:application/gzip;base64,")
    return gzip.decompress(base64.b64decode(data)).decode()


def test_files_are_packed() -> None:
    """Text comes back as it was, lone surrogates as escapes; the bytes do not tell the time."""
    texts = {"a.json": "{}\u00e4\udc80", "b.csv": "1,2\n"}
    found = downloads(texts, 1000)
    assert [(file.name, file.kind) for file in found] == [
        ("a.json", "application/json"),
        ("b.csv", "text/csv"),
    ]
    assert list(map(unpacked, found)) == ["{}\u00e4\\udc80", "1,2\n"]
    assert base64.b64decode((found[0].href or "").partition(",")[2])[4:8] == b"\0\0\0\0"


def test_what_does_not_fit_is_left_out() -> None:
    """A later, smaller file may still fit."""
    large = "".join(chr(33 + (n * n * 7919) % 89) for n in range(5000))
    first, second = downloads({"a.json": large, "b.csv": "1"}, 200)
    assert first.href is None
    assert unpacked(second) == "1"
    assert [file.href for file in downloads({"a.json": "1"}, 0)] == [None]
