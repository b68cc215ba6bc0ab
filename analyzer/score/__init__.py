# SPDX-License-Identifier: Apache-2.0
"""The score stage: outputs of both models go in, how well the quantized one does the task out.

What is kept grows with the number of samples by no more than the detections found in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from analyzer.config import Config
from analyzer.errors import ConfigError
from analyzer.records import Model, TaskScore
from analyzer.samples import Chosen
from analyzer.score.average_precision import has_evaluator
from analyzer.score.classification import ClassJudge
from analyzer.score.custom import CustomJudge
from analyzer.score.detection import DetectionJudge
from analyzer.score.ends import End
from analyzer.score.judge import Arrays, Judge
from analyzer.score.labels import kind_of
from analyzer.score.recognise import Answers, classes_of, pixel_axis, recognise
from analyzer.score.truths import true_boxes, true_classes
from analyzer.score.vectors import PlacesJudge, VectorJudge


class Scorer:
    """Collects answers while samples run (see `simulate.Watch`).

    Args:
        model: the graph that is run.
        config: says which task, labels and metric.
        data: the samples; their names lead to labels.
        plans: how many plans run side by side.

    Raises:
        ConfigError: if the task, the labels or the metric do not fit.
    """

    def __init__(self, model: Model, config: Config, data: Chosen, plans: int) -> None:
        self._model = model
        self._config = config
        self._data = data
        self._plans = plans
        answers = recognise(model, config.task)
        labels = Path(config.labels).expanduser() if config.labels is not None else None
        if labels is not None:
            answers = self._labelled(labels, answers)
        self._judges = self._judges_of(answers, labels) if answers is not None else []
        if config.metric is not None:
            names = [data.data.label(index) for index in data.indices]
            outputs = tuple(spec.name for spec in model.outputs)
            self._judges.append(CustomJudge(config.metric, outputs, names, plans))

    def watch(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in the outputs of one sample: FP32, and those of every plan."""
        for judge in self._judges:
            judge.add(index, plain, noisy)

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan; none where the task is not known."""
        return tuple(score for judge in self._judges for score in judge.scores(plan))

    def _labelled(self, labels: Path, answers: Answers | None) -> Answers:
        """Return what the labels can be held against."""
        kind = kind_of(labels)
        is_open = self._config.task == "auto" and kind == "classes"
        if is_open and (answers is None or answers.kind == "embedding"):
            answers = recognise(self._model, "classification")
        wanted = {"classes": "classification", "boxes": "detection"}[kind]
        if answers is None or answers.kind != wanted:
            task = self._config.task
            told = f"told as {answers.kind if answers else 'none'}" if task == "auto" else task
            raise ConfigError(
                f"{labels} holds {kind}, which need the task {wanted}; the task is {told}.",
                f"Pass --task {wanted}, or leave out --labels.",
            )
        if kind == "boxes" and not has_evaluator():
            raise ConfigError(
                "--labels of boxes need pycocotools, which is not installed.",
                "Run pip install 'qanalyze[detection]', or leave out --labels.",
            )
        if len(answers.ends) > 1:
            names = ", ".join(end.name for end in answers.ends)
            raise ConfigError(
                f"{labels} holds one class per sample, but {len(answers.ends)} outputs give"
                f" classes: {names}.",
                "Compare them in --metric MODULE:FUNCTION, and leave out --labels.",
            )
        return answers

    def _judges_of(self, answers: Answers, labels: Path | None) -> list[Judge]:
        if answers.heads is None:
            return [self._judge(answers.kind, end, labels) for end in answers.ends]
        heads, truth = answers.heads, None
        if labels is not None:
            truth = true_boxes(labels, self._data, self._model, self._config, heads)
        is_sure = self._config.task == "detection"
        return [DetectionJudge(heads, self._plans, truth=truth, is_sure=is_sure)]

    def _judge(self, kind: str, end: End, labels: Path | None) -> Judge:
        if kind == "embedding":
            return VectorJudge(end.name, self._plans)
        if kind == "tokens":
            return PlacesJudge("token agreement", end.name, -1, self._plans)
        if kind == "pixels":
            axis = pixel_axis(self._model, end)
            assert axis is not False, "only maps of classes are recognised as pixels"
            return PlacesJudge("pixel agreement", end.name, axis, self._plans)
        classes = classes_of(end)
        rows = prod(end.shape) // classes
        truth = true_classes(labels, self._data, rows) if labels is not None else None
        threshold = 0.5 if end.operator == "Sigmoid" else 0.0
        return ClassJudge(end.name, classes, self._plans, threshold=threshold, labels=truth)
