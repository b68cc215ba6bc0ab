# SPDX-License-Identifier: Apache-2.0
"""The result of a run for people: an `analyzer.records.Analysis` with frames, plots and a view.

Needs neither onnx nor onnxruntime; pandas and matplotlib are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.errors import ConfigError, nearest
from analyzer.records import Analysis as Record
from analyzer.records import Proposal

if TYPE_CHECKING:
    import os

    import pandas as pd
    from matplotlib.figure import Figure


class Analysis:
    """What was measured, and what helps against it.

    Frames are made anew each time they are asked for: yours may be changed.

    Args:
        record: everything, as it was measured.
        files: what was exported, path below the export folder -> content.

    Attributes:
        record: everything, as it was measured.
    """

    def __init__(self, record: Record, files: Mapping[str, str | bytes] | None = None) -> None:
        self.record = record
        self._files = dict(files or {})

    @property
    def layers(self) -> pd.DataFrame:
        """Layers in execution order, by name: errors, parts of the noise, findings."""
        from analyzer.report.frames import layers_frame

        return layers_frame(self.record)

    @property
    def outputs(self) -> pd.DataFrame:
        """Graph outputs and slices, by name: accumulated error, before and after."""
        from analyzer.report.frames import outputs_frame

        return outputs_frame(self.record)

    @property
    def scores(self) -> pd.DataFrame:
        """Scores of the task, by name: before and after."""
        from analyzer.report.frames import scores_frame

        return scores_frame(self.record)

    @property
    def proposals(self) -> pd.DataFrame:
        """Proposals, by name: changes, costs, and what is left of the noise."""
        from analyzer.report.frames import proposals_frame

        return proposals_frame(self.record)

    @property
    def findings(self) -> pd.DataFrame:
        """Causes that were found, with their evidence."""
        from analyzer.report.frames import findings_frame

        return findings_frame(self.record)

    @property
    def sources(self) -> pd.DataFrame:
        """Sources of noise in execution order: down a column they add up."""
        from analyzer.report.frames import sources_frame

        return sources_frame(self.record)

    @property
    def attempts(self) -> pd.DataFrame:
        """What was tried on the way to the proposals."""
        from analyzer.report.frames import attempts_frame

        return attempts_frame(self.record)

    @property
    def recommended(self) -> Proposal | None:
        """The proposal to write into the config, if there is one; its `setting` says how."""
        return next((plan for plan in self.record.proposals if plan.recommended), None)

    @property
    def exports(self) -> dict[str, str]:
        """Path -> text of what was exported; without `export=`, for the target's own tool.

        Long and binary files are left out, `save` writes them.
        """
        return {path: text for path, text in self.record.exports.items() if text}

    def __repr__(self) -> str:
        from analyzer.report.html.notebook import in_one_line

        return in_one_line(self.record)

    def _repr_html_(self) -> str:
        from analyzer.report.html.notebook import render_notebook

        return render_notebook(self.record)

    def plot_isolated(self) -> Figure:
        """Draw the isolated errors of the worst layers with their 95 % intervals.

        Raises:
            ConfigError: if no finite one above zero was measured.
        """
        from analyzer.report.plots import isolated_figure

        return _drawn(isolated_figure(self.record), "no isolated error above zero was measured")

    def plot_graphwise(self) -> Figure:
        """Draw the error along the network: accumulated, and what each layer adds.

        Raises:
            ConfigError: if no finite one above zero was measured.
        """
        from analyzer.report.plots import graphwise_figure

        return _drawn(graphwise_figure(self.record), "no error above zero was measured")

    def plot_steps(self) -> Figure:
        """Draw how the error of the worst output grows while more of the graph is quantized.

        Raises:
            ConfigError: if that was not measured.
        """
        from analyzer.report.plots import steps_figure

        return _drawn(steps_figure(self.record), "the worst output was not measured in steps")

    def plot_pareto(self) -> Figure:
        """Draw what the proposals leave of the noise against what they cost.

        Raises:
            ConfigError: if there are not two of them.
        """
        from analyzer.report.plots import pareto_figure

        return _drawn(pareto_figure(self.record), "there are no two proposals to compare")

    def plot_histogram(self, layer: str) -> Figure:
        """Draw what the tensors of a layer hold, in FP32 and quantized.

        Raises:
            ConfigError: if there is no such layer, it was not among the worst that are looked
                into, or its tensors hold one value each.
        """
        from analyzer.report.profile_plots import histogram_figure

        self._check_profiled(layer)
        found = histogram_figure(self.record, layer)
        return _drawn(found, f"the tensors of {layer!r} hold one value each")

    def plot_channels(self, layer: str) -> Figure:
        """Draw how far the channels of a layer's tensors reach.

        Raises:
            ConfigError: if there is no such layer, it was not among the worst that are looked
                into, or its tensors have no channels.
        """
        from analyzer.report.profile_plots import channels_figure

        self._check_profiled(layer)
        found = channels_figure(self.record, layer)
        return _drawn(found, f"the tensors of {layer!r} have no channels")

    def compare(self, other: Analysis | Record) -> pd.DataFrame:
        """Return outputs and layers beside those of another analysis, which is the older one."""
        from analyzer.report.changes import compare
        from analyzer.report.frames import changes_frame

        old = other.record if isinstance(other, Analysis) else other
        return changes_frame(compare(self.record, old))

    def to_html(self) -> str:
        """Return the report page."""
        from analyzer.report.html import render_html

        return render_html(self.record)

    def save(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Write all reports, and what `export=` asked for, into a folder.

        Returns:
            file name -> path.

        Raises:
            StoreError: if the folder or the disk refuses.
        """
        from analyzer.report.files import write_reports

        return write_reports(self.record, Path(folder), self._files or None)

    def _check_profiled(self, name: str) -> None:
        """Refuse a layer whose tensors were not looked into."""
        layers = [layer.name for layer in self.record.layers]
        if name not in layers:
            raise ConfigError(f"There is no layer {name!r}.", nearest(name, layers))
        known = dict.fromkeys(profile.layer for profile in self.record.profiles)
        if name not in known:
            raise ConfigError(
                f"Layer {name!r} was not looked into: only the worst layers are.",
                f"Looked into: {', '.join(known) or 'none'}.",
            )


def load_analysis(path: str | os.PathLike[str]) -> Analysis:
    """Read an `analysis.json`; the model, its data and their runtimes are not needed.

    Raises:
        StoreError: if it cannot be read, or is none.
    """
    from analyzer import store

    return Analysis(store.load_analysis(Path(path)))


def _drawn(figure: Figure | None, why: str) -> Figure:
    """Return a figure that notebooks show as it is; refuse None."""
    if figure is None:
        raise ConfigError(f"There is nothing to draw: {why}.")
    from analyzer.report.figures import svg_of

    # A notebook knows figures of pyplot only, which is not used here; it asks any object for this.
    shown: dict[str, Any] = vars(figure)  # Any: matplotlib declares no such attribute
    shown["_repr_svg_"] = partial(svg_of, figure)
    return figure
