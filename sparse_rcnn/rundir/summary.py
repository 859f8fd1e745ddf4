"""The summary of a run, from its directory or a copy: identity, state, numbers, and its problems."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.reader import Run, RunSource, display_name, set_aside_in


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        source: what it is read from; of several copies of a run, the one taken.
        identity: common to all seeds of a configuration.
        name: the experiment to call it by.
        values: the finite numbers of results.json; empty where there is none.
        devices: of all its processes, with their number where several trained it together.
        fingerprints: of the training and the validation annotations, None where unknown.
        deviations: by experiment what overrides changed of it; tables take plain runs first.
        axes: the paper's names of two factors, ``stages`` and ``proposals``, to their values in this run.
        state: as status.json has it.
        problem: why it cannot be read, else None.
        resumed_otherwise: what else a resume changed, ``recipe`` or ``data``, sorted.
        set_aside: a line for each damaged checkpoint that is not loaded: its name, the file and the fault.
    """

    source: RunSource
    run_id: str
    identity: str
    seed: int | None
    name: str
    experiments: tuple[str, ...]
    deviations: Mapping[str, Sequence[str]]
    recipe: str
    state: str
    step: int | None
    num_steps: int | None
    epoch: float | None
    finished: bool
    values: Mapping[str, float]
    axes: Mapping[str, int]
    data_name: str
    fingerprints: tuple[str | None, str | None]
    num_val_images: int | None
    dirty: bool
    shas: tuple[str, ...]
    devices: tuple[str, ...]
    created_at: str
    updated_at: str
    problem: str | None
    resumed_otherwise: tuple[str, ...]
    set_aside: tuple[str, ...]

    @property
    def progress(self) -> str:
        """One line about an unfinished run."""
        if self.state == layout.FINISHED:
            return f"{self.state}, but {layout.RESULTS} is missing"
        return self.state if self.step is None else f"{self.state}, step {self.step} of {self.num_steps}"

    @property
    def directory(self) -> Run:
        """Its run directory, for what is in files alone.

        Raises:
            RunError: it comes from W&B.
        """
        if not isinstance(self.source, Run):
            raise RunError(f"{self.run_id} was read from W&B, and this needs its run directory: see --runs")
        return self.source


def summarise(run: RunSource) -> RunSummary:
    """Read a run; what is damaged becomes its ``problem``."""
    meta, problem = run.meta, None
    status: dict[str, Any] = {}
    results: dict[str, Any] | None = None
    try:
        status, results = run.status, run.results
    except RunError as error:
        # Without the folder: the same runs give the same bytes wherever they lie.
        problem = str(error)
        if isinstance(run, Run):
            problem = problem.removeprefix(f"{run.path}/")
    resumes = [item for item in meta.get("resumes") or [] if isinstance(item, dict)]
    processes = [meta, *resumes]
    gits = [_object(item, "git") for item in processes]
    data = _object(meta, "data")
    prints = _fingerprints(meta)
    changed = {"recipe" for item in resumes if item.get("recipe", meta.get("recipe")) != meta.get("recipe")}
    changed |= {"data" for item in resumes if "data" in item and _fingerprints(item) != prints}
    state = str(status.get("state"))
    values = finite_numbers(results or {})
    if problem is None and values.get(metric_keys.AP, 0.0) > 1:
        problem = f"{layout.RESULTS}: {metric_keys.AP} is {values[metric_keys.AP]:g}, not a fraction"
    return RunSummary(
        source=run,
        run_id=run.run_id,
        identity=str(meta.get("identity") or run.run_id.rsplit("-seed", 1)[0]),
        seed=_whole(meta.get("seed")),
        name=display_name(str(meta.get("experiment")), run.experiments),
        experiments=tuple(run.experiments),
        deviations=run.deviations,
        recipe=str(meta.get("recipe")),
        state=state,
        step=_whole(status.get("step")),
        num_steps=_whole(status.get("num_steps")),
        epoch=finite_numbers({"epoch": status.get("epoch")}).get("epoch"),
        finished=problem is None and state == layout.FINISHED and results is not None,
        values=values,
        axes=_axes(run),
        data_name=str(data.get("name")),
        fingerprints=prints,
        num_val_images=_whole(_object(data, "val").get("num_images")),
        dirty=any(git.get("dirty") is True for git in gits),
        shas=tuple(sorted({str(git["sha"]) for git in gits if git.get("sha")})),
        devices=tuple(sorted({_device(item) for item in processes if item.get("device")})),
        created_at=str(meta.get("created_at") or ""),
        updated_at=str(status.get("updated_at") or ""),
        problem=problem,
        resumed_otherwise=tuple(sorted(changed)),
        set_aside=tuple(f"{item['checkpoint']}: {item['problem']}" for item in set_aside_in(status)),
    )


def _object(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def _fingerprints(item: Mapping[str, Any]) -> tuple[str | None, str | None]:
    data = _object(item, "data")
    train, val = (_object(data, split).get("fingerprint") for split in ("train", "val"))
    return train, val


def _device(item: Mapping[str, Any]) -> str:
    number = item.get("world_size")
    return f"{number} x {item['device']}" if isinstance(number, int) and number > 1 else str(item["device"])


def _axes(run: RunSource) -> dict[str, int]:
    try:
        config = run.config
    except RunError:  # labels alone need it
        return {}
    pairs = (("stages", config.get("num_stages")), ("proposals", config.get("num_proposals")))
    return {name: value for name, value in pairs if isinstance(value, int)}


def finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers."""
    numbers = {key: value for key, value in values.items() if type(value) in (int, float)}
    return {key: float(value) for key, value in numbers.items() if -sys.float_info.max <= value <= sys.float_info.max}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
