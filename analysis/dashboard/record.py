"""One folder among the runs as a row of the page: plain values, whatever is in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from analysis.dashboard.curves import curves
from analysis.dashboard.factors import flat_config
from analysis.dashboard.pack import PackedView, pack_view
from analysis.dashboard.values import ap_values, number, percent, text, whole
from analysis.work_time import resume_moments
from sparse_rcnn.errors import NewerSchemaError, UserError
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.reader import Run, set_aside_in
from sparse_rcnn.rundir.run_progress import UNREADABLE, last_sign_of_life, seconds_of
from sparse_rcnn.rundir.views import view_ids

T = TypeVar("T")
_NUM_RECALLS = 101


@dataclass(frozen=True)
class RunRecord:
    """A folder as the page shows it.

    Attributes:
        row: plain values.
        config: flat, or None.
        views: of validation images.
        path, host: of a run, and the machine of its latest process.
        last_sign: of life, in seconds since 1970.
    """

    row: dict[str, Any]
    config: dict[str, Any] | None = None
    views: list[PackedView] = field(default_factory=list)
    path: Path | None = None
    host: str | None = None
    last_sign: float | None = None


def read_record(path: Path, root: Path) -> RunRecord:
    """The record of a folder under `root`; whatever is wrong with it becomes its `problems`, never an exception."""
    key = path.relative_to(root).as_posix() if path != root else path.resolve().name
    row: dict[str, Any] = {"key": key, "name": key, "is_run": False, "problems": []}
    try:
        run = Run(path)
    except NewerSchemaError as error:
        return RunRecord({**row, "state": "newer", "problems": [str(error).replace(str(path), "it", 1)]})
    except (UserError, OSError) as error:
        has_meta = (path / layout.META).exists()
        why = (
            str(error).replace(f"{path}/", "")
            if has_meta
            else "no meta.json: no run, or one whose creation was cut off"
        )
        return RunRecord({**row, "state": UNREADABLE if has_meta else "foreign", "problems": [why]})
    return _Reader(run, row["problems"]).record(row)


class _Reader:
    """Reads the parts of a run one by one, so that a damaged file costs its own part and no other."""

    def __init__(self, run: Run, problems: list[str]) -> None:
        self.run = run
        self.problems = problems

    def record(self, row: dict[str, Any]) -> RunRecord:
        status = self._part(layout.STATUS, lambda: self.run.status) or {"state": UNREADABLE}
        results = self._part(layout.RESULTS, lambda: self.run.results)
        evaluations, damaged = self._part("eval", self.run.readable_evaluations) or ([], [])
        self.problems += [self._shortened(problem) for problem in damaged]
        events = self._part(layout.METRICS, self.run.events) or []
        config = self._part(layout.CONFIG, lambda: flat_config(self.run.config))
        latest = evaluations[-1] if evaluations else {}
        row = {**row, "is_run": True, **(self._part(layout.META, self._identity) or {}), **_progress(status)}
        row |= self._part(layout.METRICS, lambda: self._curves(events, status)) or {}
        row |= self._part("the newest evaluation", lambda: _evaluation(latest)) or {}
        row |= self._part("the AP numbers", lambda: _numbers(results, latest, events)) or {}
        if isinstance(results, dict):
            row["seconds"] = number(results.get(metric_keys.TRAIN_SECONDS)) or row.get("seconds")
            row["images_per_second"] = number(results.get(metric_keys.IMAGES_PER_SECOND), 4)
            gflops = number(results.get(metric_keys.FORWARD_GFLOPS))
            row["gflops"] = gflops and gflops + (number(results.get(metric_keys.ROI_POOLING_GFLOPS)) or 0.0)
            row["parameters"] = number(results.get(metric_keys.NUM_PARAMETERS), 12)
        self._notes(row, status)
        host = status.get("host") or self.run.meta.get("host")
        last_sign = last_sign_of_life(status, self.run.meta, events[-1:])
        return RunRecord(row, config, self._views(), self.run.path, host if isinstance(host, str) else None, last_sign)

    def _identity(self) -> dict[str, Any]:
        meta = self.run.meta
        data, git = _object(meta.get("data")), _object(meta.get("git"))
        return {
            "name": text(self.run.name, "no name"),
            "experiments": [text(name) for name in self.run.experiments if name] if "experiment" in meta else [],
            "run_id": text(self.run.run_id),
            "identity": text(meta.get("identity")),
            "recipe": text(meta.get("recipe")),
            "seed": whole(meta.get("seed")),
            "data": text(data.get("name")),
            "device": text(meta.get("device")),
            "created_at": text(meta.get("created_at")),
            "commit": None if git.get("sha") is None else f"{str(git['sha'])[:10]}{'*' if git.get('dirty') else ''}",
        }

    def _curves(self, events: list[dict[str, Any]], status: Mapping[str, Any]) -> dict[str, Any]:
        return curves(events, seconds_of(status.get("started_at")), resume_moments(self.run.meta))

    def _notes(self, row: dict[str, Any], status: Mapping[str, Any]) -> None:
        if row.get("state") == layout.FINISHED and not (self.run.path / layout.RESULTS).exists():
            self.problems.append("finished, but results.json is missing")
        aside = [f"{item['checkpoint']}: {item['problem']}" for item in set_aside_in(status)]
        self.problems += [f"checkpoint set aside: {line}" for line in aside]
        num_unreadable, torn = self._part(layout.METRICS, self._bad_lines) or (0, False)
        if num_unreadable:
            lines = "line" if num_unreadable == 1 else "lines"
            self.problems.append(f"metrics.jsonl: {num_unreadable} unreadable {lines} left out")
        if torn and row.get("state") not in (layout.RUNNING, layout.CREATED):
            self.problems.append("metrics.jsonl: the last line is cut off and left out")

    def _bad_lines(self) -> tuple[int, bool]:
        return self.run.num_unreadable_lines, self.run.has_torn_line

    def _views(self) -> list[PackedView]:
        views = []
        for image_id in self._part("views", lambda: view_ids(self.run)) or []:
            view = self._part(f"views/{image_id}.json", partial(pack_view, self.run, image_id))
            if view is not None:
                views.append(view)
                self.problems += [self._shortened(problem) for problem in view.problems]
        return views

    def _part(self, what: str, read: Callable[[], T]) -> T | None:
        """The part as it is read, or None and a problem where that fails."""
        try:
            return read()
        except UserError as error:  # names the file
            problem = self._shortened(str(error))
        except Exception as error:  # the content of a foreign or damaged file can be wrong in any way
            problem = f"{what} is damaged: {type(error).__name__}: {error}"
        if problem not in self.problems:
            self.problems.append(problem)
        return None

    def _shortened(self, problem: str) -> str:
        """Without the path of the run, which the row shows anyway."""
        return problem.replace(f"{self.run.path}/", "")


def _progress(status: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "state": text(status.get("state"), "unreadable"),
        "step": whole(status.get("step")),
        "num_steps": whole(status.get("num_steps")),
        "epoch": number(status.get("epoch")),
        "started_at": text(status.get("started_at")),
        "updated_at": text(status.get("updated_at")),
        "error": text(status.get("error")),
    }


def _numbers(results: Any, latest: Mapping[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    """AP of the detector and of each stage: the final numbers, or else those of the newest evaluation."""
    logged = [event for event in events if event["event"] == "eval"]
    last = logged[-1] if logged else {}
    sources = [(results, None), (latest.get("metrics"), latest.get("step")), (last.get("metrics"), last.get("step"))]
    for metrics, step in sources:
        if isinstance(metrics, dict) and (ap := ap_values(metrics, f"val/{metric_keys.BBOX}")) is not None:
            stages = metric_keys.stages_in(metrics)
            return {
                "ap": ap,
                "ap_step": whole(step),
                "stages": [[stage, ap_values(metrics, metric_keys.stage_group(stage))] for stage in stages],
            }
    return {}


def _evaluation(latest: Mapping[str, Any]) -> dict[str, Any]:
    """AP and AP50 of each class in percent; precision at 101 recalls of each IoU threshold."""
    classes = _object(latest.get("per_class"))
    curves = {
        text(name): [_precision(value) for value in values]
        for name, values in _object(latest.get("precision_recall")).items()
        if isinstance(values, list) and len(values) == _NUM_RECALLS
    }
    return {
        "classes": [
            [text(name), percent(_object(values).get("AP")), percent(_object(values).get("AP50"))]
            for name, values in classes.items()
        ],
        "precision_recall": {name: values for name, values in curves.items() if any(v is not None for v in values)},
        "evaluated_step": whole(latest.get("step")),
    }


def _precision(value: Any) -> float | None:
    precision = number(value)
    return None if precision is None or precision < 0 else round(precision, 3)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
