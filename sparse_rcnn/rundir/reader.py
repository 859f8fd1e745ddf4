"""A run, read from its run directory: plain dicts out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sparse_rcnn.errors import NewerSchemaError, RunError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.digests import difference, recorded_digests
from sparse_rcnn.rundir.json_files import read_json, read_object, read_sealed_object, reason

_EVALUATION_NAME = re.compile(r"step_(\d{8,})\.json")


class RunSource(Protocol):
    """Where a run is read from: a `Run`, or a copy of one that says the same, such as W&B's."""

    meta: dict[str, Any]

    @property
    def run_id(self) -> str: ...
    @property
    def experiments(self) -> list[str]: ...
    @property
    def deviations(self) -> dict[str, list[str]]: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def status(self) -> dict[str, Any]: ...
    @property
    def results(self) -> dict[str, Any] | None: ...
    @property
    def evaluations(self) -> list[dict[str, Any]]: ...


class Run:
    """A run directory, read lazily: each file once, when it is first asked for.

    Attributes:
        path: the run directory.
        meta: meta.json. Its schema version is checked here, so a `Run` that exists can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / layout.META).is_file():
            raise RunError(f"{self.path} is not a run directory: it has no {layout.META}")
        self.meta: dict[str, Any] = read_object(self.path / layout.META)
        check_meta(self.meta, str(self.path))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        """`<identity>-seed<k>`, the same wherever the directory lies."""
        return self.meta["run_id"]

    @property
    def experiments(self) -> list[str]:
        """The names of all rows that this run is, whatever it was started as: equal rows are one run."""
        return sorted(self.deviations)

    @property
    def name(self) -> str:
        """Display name: the experiment that it was started as if it is that one, else the first that it is."""
        return display_name(self.meta["experiment"], self.experiments)

    @property
    def deviations(self) -> dict[str, list[str]]:
        """For each of the `experiments` what overrides changed of it; empty lists for plain ones, and if unknown."""
        return {name: lines or [] for name, lines in self.recorded_experiments.items()}

    @property
    def recorded_experiments(self) -> dict[str, list[str] | None]:
        """The `deviations`, with None where it is unknown what overrides changed."""
        recorded = _content(self.path / layout.EXPERIMENTS)
        if not isinstance(recorded, dict) or not recorded:  # an older run, or a damaged file
            recorded = {self.meta["experiment"]: self.meta.get("deviations"), **self._names()}
        return {name: _texts(lines) for name, lines in sorted(recorded.items())}

    def _names(self) -> dict[str, Any]:
        folder = self.path / layout.NAMES
        names = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
        return {path.name: _content(path) for path in names if path.name != self.meta["experiment"]}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read_object(self.path / layout.CONFIG)

    @property
    def data(self) -> dict[str, Any]:
        """The record of the data sets by split: classes, images left out, findings; empty in runs from before it."""
        path = self.path / layout.DATA
        return read_object(path) if path.exists() else {}

    @property
    def status(self) -> dict[str, Any]:
        """status.json as it is now, or only `{"state": layout.CREATED}` before the first was written."""
        path = self.path / layout.STATUS
        return read_object(path) if path.exists() else {"state": layout.CREATED}

    @property
    def results(self) -> dict[str, Any] | None:
        """The final numbers under flat keys (`val/bbox/AP`), or None while the run has none."""
        path = self.path / layout.RESULTS
        return read_sealed_object(path) if path.exists() else None

    def checked(self, name: str) -> Path:
        """The path of a file of the run; of a finished run that has digests, after a comparison with them.

        Raises:
            RunError: it is not what was written, or the digests are damaged.
        """
        path = self.path / name
        if not path.exists() or not self.is_finished:
            return path
        written = recorded_digests(self.path) or {}
        try:
            problem = difference(path, written[name]) if name in written else None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {reason(error)}") from error
        if problem is not None:
            raise RunError(f"{path} {problem}; restore it from a copy")
        return path

    @property
    def is_finished(self) -> bool:
        """Whether the final results are written and the state says finished."""
        try:
            return self.status.get("state") == layout.FINISHED and self.results is not None
        except RunError:  # damaged
            return False

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far, sorted by their step.

        Raises:
            RunError: one of them cannot be read; `readable_evaluations` leaves it out.
        """
        return [{"step": step, **read_sealed_object(path)} for step, path in self._evaluation_files]

    def readable_evaluations(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The evaluations that have an epoch and numbers, sorted by their step, and a line about each other file."""
        found, problems = [], []
        for step, path in self._evaluation_files:
            try:
                found.append({"step": step, **_read_evaluation(path)})
            except RunError as error:  # names the file
                problems.append(str(error))
        return found, problems

    def has_evaluation(self, step: int) -> bool:
        """Whether the evaluation after ``step`` training steps is there and can be read."""
        try:
            read_sealed_object(self.path / layout.evaluation_file(step))
        except RunError:
            return False
        return True

    @property
    def _evaluation_files(self) -> list[tuple[int, Path]]:
        folder = self.path / layout.EVALUATIONS
        paths = list(folder.iterdir()) if folder.is_dir() else []
        steps = {int(match[1]): path for path in paths if (match := _EVALUATION_NAME.fullmatch(path.name))}
        return sorted(steps.items())

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The events of metrics.jsonl, sorted by step; of a repeated (event, step) the last one written.

        Args:
            event: only events of this name.
        """
        last = {(item["event"], item["step"]): item for item in self._lines[0]}
        chosen = [item for item in last.values() if event is None or item["event"] == event]
        return sorted(chosen, key=lambda item: item["step"])

    @property
    def num_unreadable_lines(self) -> int:
        """Lines of metrics.jsonl that hold no event, apart from a torn last line."""
        return self._lines[1]

    @property
    def has_torn_line(self) -> bool:
        """Whether the last line of metrics.jsonl was cut off in writing."""
        return self._lines[2]

    @cached_property
    def _lines(self) -> tuple[list[dict[str, Any]], int, bool]:
        path = self.path / layout.METRICS
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        except OSError as error:
            raise RunError(f"{path} cannot be read: {reason(error)}") from error
        events, num_unreadable, torn = [], 0, False
        for index, line in enumerate(lines):
            item = parse_event(line)
            if item is not None:
                events.append(item)
            elif index == len(lines) - 1:
                torn = bool(line)
            elif line.strip():
                num_unreadable += 1
        return events, num_unreadable, torn


def set_aside_in(status: Mapping[str, Any]) -> list[dict[str, str]]:
    """The damaged checkpoints that a status names: ``checkpoint``, their name, and ``problem``, file and fault."""
    items = status.get(layout.SET_ASIDE)
    return [item for item in items if _names_checkpoint(item)] if isinstance(items, list) else []


def _names_checkpoint(item: Any) -> bool:
    return isinstance(item, Mapping) and all(isinstance(item.get(key), str) for key in ("checkpoint", "problem"))


def display_name(started_as: str, experiments: Sequence[str]) -> str:
    """The experiment to call a run by, of all that it is."""
    return started_as if started_as in experiments or not experiments else experiments[0]


def check_meta(meta: Any, where: str) -> None:
    """Refuse what describes no run.

    Raises:
        RunError: it does not; a NewerSchemaError where a newer version of this program wrote it.
    """

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise RunError(f"{where}: its meta.json does not describe a run: {what}")

    def require_text(key: str) -> None:
        value = meta.get(key)
        require(isinstance(value, str) and value != "", f"{key} must be a string that is not empty, not {value!r:.40}")

    require(isinstance(meta, dict), "it must be a JSON object")
    version = meta.get("schema_version")
    require(type(version) is int, f"schema_version must be a whole number, not {version!r:.40}")
    require_text("run_id")  # without it this is not even a newer version's
    if version > layout.SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{where} was written with schema version {version}, this program reads up to {layout.SCHEMA_VERSION}: "
            "update it, or choose another runs_root"
        )
    require_text("experiment")
    resumes = meta.get("resumes", [])
    require(isinstance(resumes, list), f"resumes must be a list, not {resumes!r:.40}")


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line of metrics.jsonl; None for a line that holds none."""
    try:
        item = json.loads(line)
    except ValueError:  # cut off, or bytes that are no text
        return None
    valid = isinstance(item, dict) and isinstance(item.get("event"), str) and type(item.get("step")) is int
    return item if valid else None


def _read_evaluation(path: Path) -> dict[str, Any]:
    content = read_sealed_object(path)
    epoch: Any = content.get("epoch")
    metrics: Any = content.get("metrics")
    if not _is_number(epoch) or not 0 <= epoch < math.inf:
        raise RunError(f"{path} is not an evaluation: epoch must be a number, not {epoch!r:.40}")
    if not isinstance(metrics, dict) or not all(value is None or _is_number(value) for value in metrics.values()):
        raise RunError(f"{path} is not an evaluation: metrics must be an object of numbers")
    return content


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _content(path: Path) -> Any:
    """The content of a JSON file; None where it is absent, damaged or empty."""
    try:
        return read_json(path)
    except RunError:
        return None


def _texts(value: Any) -> list[str] | None:
    return [str(item) for item in value] if isinstance(value, list) else None
