"""What tables need of a run, from its directory or from W&B: identity, state, numbers, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from analysis.run_folders import find_foreign_folders, find_runs
from analysis.runs import Run, RunError
from analysis.wandb_runs import find_wandb_runs

RECIPES = Path(__file__).parent.parent / "conf" / "recipe"


class Source(Protocol):
    """Where a run is read from: a `Run`, or a `WandbRun`, which say the same of the same run."""

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


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        source: what it is read from; of several copies of a run, the one taken.
        identity: what its seeds have in common.
        values: the finite numbers of results.json; empty where there is none.
        devices: of all its processes, with their number where several trained it together.
        fingerprints: of the training and the validation annotations, None where unknown.
        deviations: by experiment what overrides changed of it; tables take plain runs first.
        axes: the paper's names of two factors, ``stages`` and ``proposals``, to their values in this run.
        progress: one line about an unfinished run.
        problem: why it cannot be read, else None.
        resumed_otherwise: what else a resume changed, ``recipe`` or ``data``, sorted.
    """

    source: Source
    run_id: str
    identity: str
    seed: int | None
    experiments: tuple[str, ...]
    deviations: Mapping[str, Sequence[str]]
    recipe: str
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
    epoch: float | None
    progress: str
    problem: str | None
    resumed_otherwise: tuple[str, ...]

    @property
    def directory(self) -> Run:
        """Its run directory, for what is in files alone.

        Raises:
            RunError: it comes from W&B.
        """
        if not isinstance(self.source, Run):
            raise RunError(f"{self.run_id} was read from W&B, and this needs its run directory: see --runs")
        return self.source


def summarise(run: Source) -> RunSummary:
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
    state, step, num_steps = (status.get(key) for key in ("state", "step", "num_steps"))
    where = f", step {step} of {num_steps}" if step is not None else ""
    if state == "finished" and results is None:
        where = ", but results.json is missing"
    values = _numbers(results or {})
    if problem is None and values.get("val/bbox/AP", 0.0) > 1:
        problem = f"results.json: val/bbox/AP is {values['val/bbox/AP']:g}, not a fraction"
    num_images = _object(data, "val").get("num_images")
    return RunSummary(
        source=run,
        run_id=run.run_id,
        identity=str(meta.get("identity") or run.run_id.rsplit("-seed", 1)[0]),
        seed=meta.get("seed") if isinstance(meta.get("seed"), int) else None,
        experiments=tuple(run.experiments),
        deviations=run.deviations,
        recipe=str(meta.get("recipe")),
        finished=problem is None and state == "finished" and results is not None,
        values=values,
        axes=_axes(run),
        data_name=str(data.get("name")),
        fingerprints=prints,
        num_val_images=num_images if isinstance(num_images, int) else None,
        dirty=any(git.get("dirty") is True for git in gits),
        shas=tuple(sorted({str(git["sha"]) for git in gits if git.get("sha")})),
        devices=tuple(sorted({_device(item) for item in processes if item.get("device")})),
        created_at=str(meta.get("created_at") or ""),
        updated_at=str(status.get("updated_at") or ""),
        epoch=_numbers({"epoch": status.get("epoch")}).get("epoch"),
        progress=f"{state}{where}",
        problem=problem,
        resumed_otherwise=tuple(sorted(changed)),
    )


def load_summaries(roots: Iterable[str | Path], wandb_project: str | None = None) -> list[RunSummary]:
    """All runs under some folders and of a W&B project, each run once however many copies there are, sorted by run id.

    Of several copies a finished one is taken, the newest of those, a directory before W&B.

    Raises:
        RunError: a root is no folder, the project cannot be read, or a run was written by a newer schema.
    """
    sources: list[Source] = []
    for root in roots:
        sources += find_runs(root)
        if foreign := [str(path) for path in find_foreign_folders(root)]:
            print(f"no runs, or damaged, and left out: {', '.join(foreign)}", file=sys.stderr)
    if wandb_project is not None:
        runs, num_others = find_wandb_runs(wandb_project)
        sources += runs
        if num_others:
            others = f"{num_others} runs there were not logged by this suite, or by an older version of it"
            print(f"{wandb_project}: {others}: left out", file=sys.stderr)
    found: dict[str, RunSummary] = {}
    for summary in sorted(map(summarise, sources), key=_preference):
        found[summary.run_id] = summary
    return sorted(found.values(), key=lambda summary: summary.run_id)


def choose_recipe(summaries: Sequence[RunSummary], asked: str | None) -> str:
    """The recipe that is asked for, or the only one there is.

    Raises:
        RunError: none is asked for and there is no run, or there are several recipes; that which is asked for is
            neither that of a run nor one of this suite's.
    """
    recipes = sorted({summary.recipe for summary in summaries})
    names = ", ".join(recipes)
    if asked is not None:
        # One of the suite's that nobody has trained yet: every row is a dash and the command that would train it.
        own = sorted(path.stem for path in RECIPES.glob("*.yaml"))
        if asked not in (*recipes, *own):
            known = ", ".join(sorted({*recipes, *own}))
            raise RunError(f"there is no run of recipe {asked}; choose one of those there are with --recipe: {known}")
        return asked
    if not summaries:
        raise RunError("there is no run: give the folder that holds them with --runs, or a project with --wandb")
    if len(recipes) > 1:
        raise RunError(f"the runs are of several recipes, {names}, which do not mix: choose one with --recipe")
    return recipes[0]


def _preference(summary: RunSummary) -> tuple[Any, ...]:
    is_directory = isinstance(summary.source, Run)
    return summary.finished, summary.updated_at, is_directory, sorted(summary.values.items()), repr(summary.source)


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


def _axes(run: Source) -> dict[str, int]:
    try:
        config = run.config
    except RunError:  # labels alone need it
        return {}
    pairs = (("stages", config.get("num_stages")), ("proposals", config.get("num_proposals")))
    return {name: value for name, value in pairs if isinstance(value, int)}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: value for key, value in values.items() if type(value) in (int, float)}
    return {key: float(value) for key, value in numbers.items() if -sys.float_info.max <= value <= sys.float_info.max}
