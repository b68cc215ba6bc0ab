# SPDX-License-Identifier: Apache-2.0
"""Put what the commands of the documentation print now into the pages.

    python tests/benchmarks/paste_outputs.py [PAGE.md ...]

A block of ```text right behind a block of one command is its output, or what the comment above it
says of that (see `tests/doc_pages.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measure import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from doc_pages import PAGES, lay_out, page_of, part, run


def main() -> None:
    """Run and write; pages without outputs stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, default=list(PAGES))
    for path in parser.parse_args().pages:
        text = pasted(path)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")


def pasted(path: Path) -> str:
    """Return a page with the outputs as they are now."""
    page = page_of(path)
    text = page.text
    if not any(line.shown for line in page.lines):
        return text
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(page, folder)
        printed = [(line, run(line.command, folder)) for line in page.lines]
    for line, ran in reversed(printed):
        if ran.returncode:
            raise SystemExit(f"{line.command}\nends with {ran.returncode}:\n{ran.stderr}")
        if line.shown:
            shown = part(ran.stdout, line.shown.note)
            text = text[: line.shown.start] + shown + text[line.shown.end :]
    return text


if __name__ == "__main__":
    main()
