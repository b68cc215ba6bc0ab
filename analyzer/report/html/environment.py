# SPDX-License-Identifier: Apache-2.0
"""How templates are read: everything escaped, an unknown name an error, no stray blank lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def environment() -> jinja2.Environment:
    """Return an environment for the templates beside this module, without filters of ours."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("analyzer.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
