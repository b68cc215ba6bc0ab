# SPDX-License-Identifier: Apache-2.0
"""Progress of the stages on stderr: a bar with time left on a terminal, else a line per stage.

Stages see one method, `stage`, and need not import this module.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from analyzer.report.tables import duration, plural

if TYPE_CHECKING:
    import rich.console
    import rich.progress


class Progress:
    """Shows the stages of a run; safe to use from several threads.

    Args:
        console: where to write; stderr if None.
        quiet: write nothing at all.
    """

    def __init__(
        self, console: rich.console.Console | None = None, *, quiet: bool = False
    ) -> None:
        self._quiet = quiet
        self._console = console
        self._lock = threading.RLock()
        self._bars: rich.progress.Progress | None = None
        self._running = 0

    @contextlib.contextmanager
    def stage(
        self, name: str, total: int, unit: str = "sample"
    ) -> Iterator[Callable[[int], None]]:
        """Show one stage while the `with` block runs; yields `step(n)`: n more units are done.

        A stage that raises leaves no "finished" line.  `total` 0 means unknown.
        """
        if self._quiet:
            yield lambda n: None
            return
        started, done = time.perf_counter(), 0
        task = self._open(name, total)

        def step(n: int) -> None:
            nonlocal done
            with self._lock:
                done += n
                if self._bars is not None and task is not None:
                    self._bars.update(task, advance=n, total=max(total, done) or None)

        try:
            yield step
        except BaseException:
            self._close(task, "")
            raise
        elapsed = duration(time.perf_counter() - started)
        self._close(task, f"{name}: {plural(done, unit)}, {elapsed}" if done else
                    f"{name}: {elapsed}")  # fmt: skip

    def _open(self, name: str, total: int) -> rich.progress.TaskID | None:
        with self._lock:
            if self._console is None:
                from rich.console import Console

                self._console = Console(stderr=True)
            if not self._console.is_terminal:
                return None
            if self._bars is None:
                self._bars = _bars(self._console)
            if self._running == 0:
                self._bars.start()
            self._running += 1
            return self._bars.add_task(name, total=total or None)

    def _close(self, task: rich.progress.TaskID | None, line: str) -> None:
        from rich.text import Text

        with self._lock:
            assert self._console is not None
            if self._bars is not None and task is not None:
                self._bars.remove_task(task)
                self._running -= 1
                if self._running == 0:
                    self._bars.stop()
                    self._bars = None
            if line:
                self._console.print(Text(line, style="dim"), soft_wrap=True)


def _bars(console: rich.console.Console) -> rich.progress.Progress:
    from rich import progress

    return progress.Progress(
        # markup=False: a stage's name may hold the name of a target or a file.
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
