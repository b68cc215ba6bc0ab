# SPDX-License-Identifier: Apache-2.0
"""The files of a run, and what importing the reports costs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analyzer.errors import StoreError
from analyzer.records import Analysis
from analyzer.report.files import write_reports
from analyzer.report.html import render_html
from analyzer.report.spreadsheets import render_csv, render_proposals_csv, render_sources_csv
from analyzer.store import to_json


def test_all_reports_are_written(analysis: Analysis, tmp_path: Path) -> None:
    """Missing folders are made; the files hold what the renderers return; nothing else is left."""
    out = tmp_path / "reports" / "net.esp32p4"
    paths = write_reports(analysis, out)
    assert {name: path.read_text("utf-8") for name, path in paths.items()} == {
        "report.html": render_html(analysis),
        "analysis.json": to_json(analysis),
        "layers.csv": render_csv(analysis),
        "sources.csv": render_sources_csv(analysis),
        "proposals.csv": render_proposals_csv(analysis),
    }
    assert sorted(p.name for p in out.iterdir()) == sorted(paths)


def test_the_baseline_goes_into_the_page(analysis: Analysis, tmp_path: Path) -> None:
    """What the analysis is held against changes the page, and no other file."""
    alone = write_reports(analysis, tmp_path / "alone")
    held = write_reports(analysis, tmp_path / "held", baseline=analysis)
    differing = {name for name in alone if alone[name].read_bytes() != held[name].read_bytes()}
    assert differing == {"report.html"}


def below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_exports_are_written_with_their_check_sums(analysis: Analysis, tmp_path: Path) -> None:
    """Text and bytes go below export/, and a list as sha256sum reads it goes with them."""
    paths = write_reports(analysis, tmp_path, {"b/model.onnx": b"\x00\xff", "a.py": "x = 'ä'\n"})
    assert paths["export/b/model.onnx"].read_bytes() == b"\x00\xff"
    assert paths["export/a.py"].read_text("utf-8") == "x = 'ä'\n"
    digests = [hashlib.sha256(d).hexdigest() for d in ("x = 'ä'\n".encode(), b"\x00\xff")]
    sums = (tmp_path / "export" / "SHA256SUMS").read_text("utf-8")
    assert sums == f"{digests[0]}  a.py\n{digests[1]}  b/model.onnx\n"


def test_only_our_own_unchanged_files_go(analysis: Analysis, tmp_path: Path) -> None:
    """Stale files of the last export are removed, not those that somebody wrote or changed."""
    folder = tmp_path / "export"
    old = {"old/stale.json": "1", "edited.py": "2", "again.txt": "3"}
    write_reports(analysis, tmp_path, old)
    (folder / "edited.py").write_text("mine")
    (folder / "old" / "notes.txt").write_text("mine")
    (tmp_path / "outside.txt").write_text("4")
    with (folder / "SHA256SUMS").open("a") as sums:
        digest = hashlib.sha256(b"4").hexdigest()
        sums.write(f"{digest}  ../outside.txt\n{digest}  {tmp_path / 'outside.txt'}\n?\n")
    write_reports(analysis, tmp_path, {"again.txt": "5"})
    assert below(folder) == {"edited.py", "again.txt", "SHA256SUMS", "old/notes.txt"}
    assert (folder / "again.txt").read_text() == "5"
    assert (tmp_path / "outside.txt").exists()


def test_a_run_without_export_leaves_the_last_one(analysis: Analysis, tmp_path: Path) -> None:
    """And folders that an export empties go with the files in them."""
    write_reports(analysis, tmp_path, {"a/b/c.txt": "1", "d.txt": "2"})
    write_reports(analysis, tmp_path)
    assert below(tmp_path / "export") == {"a/b/c.txt", "d.txt", "SHA256SUMS"}
    write_reports(analysis, tmp_path, {"d.txt": "2"})
    assert [p.name for p in sorted((tmp_path / "export").iterdir())] == ["SHA256SUMS", "d.txt"]


def test_a_failed_export_removes_nothing(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing holds for what would have been removed, too."""
    write_reports(analysis, tmp_path, {"stale.txt": "1"})
    (tmp_path / "export" / "new").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        write_reports(analysis, tmp_path, {"new/file.txt": "2"})
    assert below(tmp_path / "export") == {"stale.txt", "new", "SHA256SUMS"}


def test_failure_keeps_the_previous_report(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while writing leaves the old files and no temporary ones."""
    paths = write_reports(analysis, tmp_path)
    for path in paths.values():
        path.write_text("old")
    original = Path.open

    def full(self: Path, *args, **kwargs):
        if "layers.csv" in self.name:
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreError, match=r"layers\.csv' cannot be written: No space left"):
        write_reports(analysis, tmp_path)
    monkeypatch.undo()
    assert {path.read_text() for path in paths.values()} == {"old"}
    assert sorted(os.listdir(tmp_path)) == sorted(paths)


def test_a_file_in_the_way_is_refused(analysis: Analysis, tmp_path: Path) -> None:
    """--out names a file: one sentence, not a traceback."""
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_reports(analysis, tmp_path / "out")


def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_rendering_needs_no_runtime(advised: Analysis, tmp_path: Path) -> None:
    """An old analysis renders where onnx and onnxruntime are not even installed."""
    write_reports(advised, tmp_path)
    loaded = loaded_after(
        "from pathlib import Path\n"
        "from analyzer.report.files import write_reports\n"
        "from analyzer.store import load_analysis\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "write_reports(load_analysis(folder / 'analysis.json'), folder / 'again')\n"
    )
    assert not loaded & {"onnx", "onnxruntime", "pandas", "pyplot"}
    again = tmp_path / "again" / "report.html"
    assert again.read_bytes() == (tmp_path / "report.html").read_bytes()


def test_importing_the_reports_is_cheap() -> None:
    """--help does not pay for tables, templates and plots."""
    loaded = loaded_after(
        "import importlib, pkgutil, analyzer.report as report\n"
        "for m in pkgutil.walk_packages(report.__path__, 'analyzer.report.'):\n"
        "    importlib.import_module(m.name)\n"
    )
    assert not loaded & {"onnx", "onnxruntime", "pandas", "matplotlib", "jinja2", "rich"}
