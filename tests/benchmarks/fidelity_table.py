# SPDX-License-Identifier: Apache-2.0
"""Write the table of targets in .github/docs/targets.md from `analyzer/targets/fidelity.json`.

    python tests/benchmarks/fidelity_table.py

The figures in that file are those of the other `fidelity_*.py` scripts.
"""

from __future__ import annotations

import re
from pathlib import Path

from analyzer.targets import get_target, target_names
from analyzer.targets.fidelity import fidelity_of, share

PAGE = Path(__file__).resolve().parents[2] / ".github" / "docs" / "targets.md"
PLACE = re.compile(r"(<!-- targets: .*? -->\n).*?(<!-- /targets -->)", re.DOTALL)


def table() -> str:
    """Return one Markdown row per target."""
    titles = ["`--target`", "imitates", "compared with", "placed alike", "scales", "output",
              "differs"]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---|---|---|---|"]
    for name in target_names():
        found = fidelity_of(name)
        if found is None:
            continue
        cells = [
            f"`{name}`", get_target(name).summary,
            f"{found.peer}, {found.compared}, {found.date}", share(found.placed), found.scales,
            found.output, found.differs,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """Return the page with the table as it is now."""
    return PLACE.sub(lambda found: found[1] + table() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
