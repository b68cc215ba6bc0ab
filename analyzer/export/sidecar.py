# SPDX-License-Identifier: Apache-2.0
"""`README.txt` beside files that cannot hold a comment."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from analyzer.export.header import header
from analyzer.export.order import Order

_WIDTH = 99


def readme(order: Order, left_out: Sequence[str], use: Sequence[str], *, tool: str) -> str:
    """Return the header as a text of its own.

    Args:
        order: what is exported.
        left_out: one sentence per thing the format cannot express.
        use: paragraphs on what to do with the files.
        tool: name of the format.
    """
    said = textwrap.dedent(header(order, comment="", left_out=left_out, tool=tool))
    return "\n".join([said, *(_wrapped(text) for text in use)])


def _wrapped(text: str) -> str:
    """Wrap a paragraph; lines that are indented stay as they are."""
    if text.startswith(" "):
        return f"{text}\n"
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"
