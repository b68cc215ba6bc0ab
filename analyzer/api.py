# SPDX-License-Identifier: Apache-2.0
"""Runs for notebooks and scripts: a model and data in, an `analyzer.Analysis` out.

What the command line does with files, this does with objects, too: models and data that are in
memory get a place where the pipeline finds them, for as long as it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from analyzer.config import GATE, Config, resolve
from analyzer.data.live import as_stream, held
from analyzer.errors import ConfigError, ModelError, QAnalyzeError, nearest
from analyzer.notebook import Analysis
from analyzer.pipeline import Outcome, run_quantized, run_targets
from analyzer.records import Analysis as Record
from analyzer.report.progress import Progress
from analyzer.targets import target_names
from analyzer.values import ALL

if TYPE_CHECKING:
    import onnx

_DEFAULT = "esp32p4"
_FEW = 8  # entries of a list that is written out
_TWO_GIB = 2**31 - 2**20  # protobuf's limit for one file, less some room


def analyze(
    model: str | os.PathLike[str] | onnx.ModelProto,
    calib: object,
    target: str = _DEFAULT,
    *,
    progress: bool = False,
    **options: Any,  # Any: each option has a type of its own
) -> Analysis:
    """Tell where INT8 noise in a model comes from, and what helps against it.

    Nothing is read from pyproject.toml or the environment: what is given here is all there is.

    Args:
        model: path of an FP32 model, or the model itself.
        calib: calibration data: a path or `module:function` as on the command line; or an array,
            a dict {input name: array}, a list or iterator of those, a loader, or a reader with
            `get_next()` (see `analyzer.data.live.as_stream`).
        target: quantizer to imitate.
        progress: show on stderr how far the run has come.
        **options: those of the command line, with underscores, as text or as values:
            `budget="5%"`, `samples=8`, `preset="yolo"`, `dispatch={"/conv/Conv": "int16"}`,
            `shapes={"x": (1, 3, 64, 64)}`, `slices={"boxes": "output0[:, :4]"}`,
            `export=["esp-ppq"]`, `propose=False`.  `eval` may be whatever `calib` may be, `metric`
            a function or a class, `quantized` a model.

    Raises:
        QAnalyzeError: for anything wrong with model, data, target or an option.
    """
    quantized = options.get("quantized") is not None
    if target == ALL or "," in target:
        raise ConfigError(
            f"analyze takes one target, not {target!r}.",
            "Give several to analyzer.analyze_targets.",
        )
    given = options if quantized and target == _DEFAULT else {**options, "target": target}
    (found,) = _run(model, calib, given, [target], progress=progress).values()
    return found


def analyze_targets(
    model: str | os.PathLike[str] | onnx.ModelProto,
    calib: object,
    targets: Iterable[str],
    *,
    progress: bool = False,
    **options: Any,  # Any: each option has a type of its own
) -> dict[str, Analysis]:
    """Analyse one model for several targets, which share data and FP32 runs.

    Args:
        model: as `analyze` takes it.
        calib: as `analyze` takes it.
        targets: names.
        progress: as `analyze` takes it.
        **options: as `analyze` takes them, for all targets.

    Returns:
        target -> result, in the order asked for.

    Raises:
        QAnalyzeError: for anything wrong with model, data, a target or an option.
    """
    names = list(dict.fromkeys([targets] if isinstance(targets, str) else targets))
    if not names:
        raise ConfigError("There is no target.", f"Known: {', '.join(target_names())}.")
    if options.get("quantized") is not None:
        raise ConfigError(
            "A quantized model has no targets: its file holds all scales.",
            "Give it to analyzer.analyze.",
        )
    return _run(model, calib, options, names, progress=progress)


def _run(
    model: object,
    calib: object,
    options: Mapping[str, Any],  # Any: each option has a type of its own
    names: Sequence[str],
    *,
    progress: bool,
) -> dict[str, Analysis]:
    """Put everything in its place, run, and say of what was in memory that it was there."""
    for name in names:
        if name not in target_names():
            raise ConfigError(f"There is no target {name!r}.", nearest(name, target_names()))
    for key in options.keys() & set(GATE):
        raise ConfigError(
            f"{key} is a gate of the command line.", "Compare .outputs, .scores, or .compare()."
        )
    with ExitStack() as stack:
        memory = _Memory(stack, _call(model, calib, names, options))
        path = memory.model(model, "model.onnx")
        given: dict[str, Any] = {**options, "calib": memory.data("calib", calib, path)}
        if given.get("eval") is not None:
            given["eval"] = memory.data("eval", given["eval"], path)
        if given.get("metric") is not None:
            given["metric"] = memory.function("metric", given["metric"])
        if given.get("quantized") is not None:
            given["quantized"] = str(memory.model(given["quantized"], "quantized.onnx"))
        try:
            config = _config(given)
            outcome = _outcome(path, config, names, Progress(quiet=not progress), memory.command)
        except QAnalyzeError as error:
            error.message, error.remedy = memory.plain(error.message), memory.plain(error.remedy)
            raise
    return {
        found.provenance.target: Analysis(
            memory.told(found), outcome.exports.get(found.provenance.target)
        )
        for found in outcome.analyses
    }


def _config(given: Mapping[str, Any]) -> Config:  # Any: each option has a type of its own
    config = resolve(given, folder=Path(os.devnull))  # which holds no pyproject.toml
    if config.export:
        from analyzer.export import check_formats

        config = replace(config, export=check_formats(config.export))
    return config


def _outcome(
    path: Path, config: Config, names: Sequence[str], progress: Progress, command: str
) -> Outcome:
    if config.quantized is None:
        return run_targets(path, config, names, progress=progress, command=command)
    quantized = Path(config.quantized)
    return run_quantized(path, quantized, config, progress=progress, command=command)


@dataclass
class _Memory:
    """What is in memory, and the names it goes by during a run.

    Attributes:
        stack: ends with the run.
        command: the call as text.
        names: name during the run -> what to call it afterwards.
    """

    stack: ExitStack
    command: str
    names: dict[str, str] = field(default_factory=dict)

    def model(self, model: object, file: str) -> Path:
        """Return the path of a model; one in memory is written first."""
        if isinstance(model, str | os.PathLike):
            return Path(model)
        folder = Path(self.stack.enter_context(TemporaryDirectory(prefix="qanalyze-")))
        _write(model, folder / file)
        return folder / file

    def data(self, role: str, data: object, model: Path) -> str:
        """Return the text by which the data stage finds data."""
        if isinstance(data, str | os.PathLike):
            return os.fspath(data)
        return self._held(role, as_stream(data, lambda: _inputs(model)), data)

    def function(self, role: str, found: object) -> str:
        """Return the text by which a function is found."""
        if isinstance(found, str):
            return found
        return self._held(_name(found) or role, found, found)

    def told(self, record: Record) -> Record:
        """Return a record without those names."""
        stands_on, plain = record.provenance, self.plain
        return replace(
            record,
            provenance=replace(
                stands_on,
                data=tuple(replace(d, origin=plain(d.origin)) for d in stands_on.data),
                config={
                    key: plain(value) if isinstance(value, str) else value
                    for key, value in stands_on.config.items()
                },
            ),
            warnings=tuple(map(plain, record.warnings)),
        )

    def plain(self, text: str) -> str:
        """Return a text without the names that have gone with the run."""
        for name, said in self.names.items():
            text = text.replace(name, said)
        return text

    def _held(self, role: str, thing: object, original: object) -> str:
        name = self.stack.enter_context(held(thing, role))
        self.names[name] = _in_words(original)
        return name


def _write(model: object, path: Path) -> None:
    """Write a model into a file, with its weights beside it where it is too large for one.

    Raises:
        ModelError: if it is none, or its weights lie in files that are not known here.
    """
    import onnx

    if not isinstance(model, onnx.ModelProto):
        raise ModelError(
            f"The model is {type(model).__name__}, expected a path or an onnx.ModelProto.",
            "Export it to ONNX first.",
        )
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"The weights of the model, {tensor.name!r} among them, are in a file beside it.",
                "Give the path of the model, or load it with its weights: onnx.load(path).",
            )
    size = sum(len(tensor.raw_data) for tensor in _tensors(model.graph))
    if size < _TWO_GIB:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # writing weights elsewhere takes them out of the model
    onnx.save(copy, str(path), save_as_external_data=True, location=f"{path.stem}.data")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _inputs(path: Path) -> list[str]:
    """Return the names of a model's inputs."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in constants]


def _call(
    model: object,
    calib: object,
    names: Sequence[str],
    options: Mapping[str, Any],  # Any: each option has a type of its own
) -> str:
    """Write the call as it was made, what is in memory in words."""
    several = len(names) > 1
    stated = {key: value for key, value in options.items() if key != "target"}
    target = repr(list(names)) if several else repr(names[0])
    if not several and "target" not in options:
        target = ""
    arguments = [_in_words(model), _in_words(calib), *([target] if target else [])]
    arguments += [f"{key}={_in_words(value)}" for key, value in stated.items()]
    return f"analyzer.analyze{'_targets' if several else ''}({', '.join(arguments)})"


def _in_words(value: object) -> str:
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if _is_short(value):
        return repr(value)
    return f"<{_name(value) or type(value).__name__} in memory>"


def _name(value: object) -> str:
    """Return the name of a function, a class or a generator; empty for anything else."""
    name = str(getattr(value, "__name__", ""))
    return name if name.isidentifier() else ""  # none: <lambda>, <genexpr>


def _is_short(value: object) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= _FEW and all(map(_is_short, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return len(value) <= _FEW and all(map(_is_short, value))
    return value is None or isinstance(value, str | int | float)
