# SPDX-License-Identifier: Apache-2.0
"""What the command tells without a model: versions, targets, codes; each ends it."""

from __future__ import annotations

import typer

from analyzer import __version__


def version(asked: bool) -> None:
    """Print the version."""
    if asked:
        print(f"qanalyze {__version__}")  # noqa: T201
        raise typer.Exit


def list_targets(asked: bool) -> None:
    """Print what every target offers, and how near it was measured to be."""
    if asked:
        from analyzer.targets import get_target, target_names
        from analyzer.targets.fidelity import fidelity_of

        for name in target_names():
            target = get_target(name)
            found = fidelity_of(name)
            lines = (
                f"{name}: {target.summary}",
                f"    --precision    {', '.join(target.precisions)}",
                f"    --calibration  {', '.join(target.observers)}",
                f"    --granularity  {', '.join(target.granularities)}",
                f"    fidelity       {found.sentence() if found else 'not measured'}",
            )
            print("\n".join(lines))  # noqa: T201
        raise typer.Exit


def explain(code: str | None) -> None:
    """Print the page of a code."""
    if code is not None:
        import shutil

        from analyzer.codes import page

        print(page(code, shutil.get_terminal_size().columns))  # noqa: T201
        raise typer.Exit
