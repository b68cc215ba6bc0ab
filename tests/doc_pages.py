# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation as what can be run: Markdown goes in, blocks and lines come out.

A comment right above a block says how it is to be taken:

    <!-- file: NAME -->             the block is this file, beside which the lines of the page run
    <!-- entry points -->           the block declares plug-ins, which are found while they run
    <!-- slow -->                   the lines of the block take long
    <!-- shown: HEAD [N], ... -->   the block is a part of the output of the line above it: the
                                    paragraphs that begin so, at most N lines of each
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / ".github" / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
LEFT_OUT = "…"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# what the words of a shell stand for: the interpreter and the checkout at hand
_SHIMS = {"qanalyze": '"{python}" -m analyzer', "python": '"{python}"'}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        note: of the comment above it, "" where there is none.
        start, end: where its text stands in the page.
    """

    note: str
    language: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Line:
    """One line that calls the command.

    Attributes:
        shown: the block with its output, if the page has one; then the line is alone in its own.
    """

    command: str
    is_slow: bool
    shown: Block | None = None


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        text: Markdown.
        blocks: all fenced ones, in order.
    """

    name: str
    text: str
    blocks: tuple[Block, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines that call the command, in order; without a `pip ... && ` in front."""
        found = []
        for number, block in enumerate(self.blocks):
            behind = self.blocks[number + 1] if number + 1 < len(self.blocks) else None
            if block.language != "bash":
                continue
            called = [line for line in block.text.splitlines() if "qanalyze " in line]
            between = self.text[block.end : behind.start] if behind else ""
            follows = behind is not None and behind.language == "text" and between.count("\n") < 6
            for line in called:
                command = line.partition(" && ")[2] if line.startswith("pip ") else line
                shown = behind if follows and len(called) == 1 else None
                found.append(Line(command, block.note == "slow", shown))
        return tuple(found)


def page_of(path: Path) -> Page:
    """Read one page."""
    text = path.read_text(encoding="utf-8")
    blocks = [
        Block(m["note"] or "", m["language"], m["text"], m.start("text"), m.end("text"))
        for m in _BLOCK.finditer(text)
    ]
    return Page(path.name, text, tuple(blocks))


def lay_out(page: Page, folder: Path) -> None:
    """Make the folder that the lines of a page run in: the sample models, and the page's files."""
    shutil.copytree(ROOT / "sample_models", folder / "sample_models")
    (folder / ".bin").mkdir()
    for name, call in _SHIMS.items():
        shim = folder / ".bin" / name
        call = call.format(python=sys.executable)
        shim.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
    for block in page.blocks:
        if block.note.startswith("file: "):
            (folder / block.note.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif block.note == "entry points":
            _install(block.text, folder)


def _install(declared: str, folder: Path) -> None:
    """Lay down what an installed package leaves behind, so that its plug-ins are found."""
    groups = tomllib.loads(declared)["project"]["entry-points"]
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {where}" for name, where in entries.items()))
    ]
    info = folder / "of_the_page-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (info / "METADATA").write_text("Name: of-the-page\nVersion: 1.0\n", encoding="utf-8")


def run(
    command: str, folder: Path, *, timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a line, or several, of a shell in a folder that was laid out.

    Args:
        command: for bash.
        folder: where it runs.
        timeout: in seconds.
        more: variables of the environment.
    """
    ours = ("QANALYZE_", "FORCE_COLOR", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{folder / '.bin'}{os.pathsep}{kept.get('PATH', '')}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**kept, "PATH": path, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )


def part(output: str, note: str) -> str:
    """Return what a page shows of an output, see the top of this file."""
    if not note.startswith("shown: "):
        return output
    asked = [entry.split() for entry in note.removeprefix("shown: ").split(", ")]
    most = {head: int(count[0]) if count else None for head, *count in asked}
    found = []
    for paragraph in output.rstrip("\n").split("\n\n"):
        lines = paragraph.split("\n")
        head = lines[0].split()[0]
        if head not in most:
            continue
        count = most[head]
        cut = count is not None and len(lines) > count
        found.append("\n".join([*lines[:count], LEFT_OUT] if cut else lines))
    return "\n\n".join(found) + "\n"
