"""A sweep: which runs it stands for, which of them are left to train, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.run.final_table import percent
from experiments.sweep.job_labels import job_names
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.layout import run_id
from sparse_rcnn.rundir.lock import is_held
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.writer import RunDirectory

if TYPE_CHECKING:
    from experiments.config.rows import RowSource

_STYLES = {"failed": "red", "missing": "yellow", "busy": "yellow", "stopped": "yellow", "going on": "yellow"}
PIPE_WIDTH = 250  # no path is folded in a file


class SweepError(UserError):
    """A sweep in which a run failed or is missing; says how many."""


@dataclass
class PlannedRun:
    """One run of a sweep.

    Attributes:
        overrides: of the job that trains it.
        configs: the checked configurations that lead to it, most often one.
        identity, seed: what names the run.
        state: finished, skipped (was finished before), busy (another process trains it), failed, missing; where the
            sweep was stopped by a signal: stopped, or going on (its job does without the sweep).
        error: the first line of what went wrong.
        log: where to read more.
    """

    overrides: list[str]
    configs: list[dict[str, Any]]
    identity: str
    seed: int
    state: str = "missing"
    error: str = ""
    log: Path | None = None
    updated_before: str | None = None  # when its status was last written before this sweep

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that it is trained with."""
        return self.configs[0]

    @property
    def names(self) -> list[str]:
        """The experiments that it is."""
        return list(dict.fromkeys(config["experiment_name"] for config in self.configs))

    @property
    def runs_root(self) -> Path:
        return Path(self.config["runs_root"])

    @property
    def path(self) -> Path | None:
        """The run's directory, once it exists."""
        return RunDirectory.find(self.runs_root, self.identity, self.seed)

    @property
    def is_finished(self) -> bool:
        path = self.path
        return path is not None and RunDirectory(path).is_finished


def plan(jobs: Sequence[Sequence[str]], compose: Callable[[list[str]], DictConfig]) -> list[PlannedRun]:
    """The distinct runs that jobs lead to; equal configurations are one run.

    Args:
        jobs: overrides of each job.
        compose: overrides to a composed configuration.

    Raises:
        UserError: there is no job, or the configuration of one is wrong; names the job's overrides.
    """
    from experiments.config.build import dry_build
    from experiments.config.validation import validate
    from experiments.run.fingerprints import run_identity_of

    if not jobs:
        raise UserError("the sweep selects nothing: see the values behind -m, and conf/sweep/")
    rows: dict[tuple[Path, str], PlannedRun] = {}
    for overrides in jobs:
        try:
            config = validate(compose(list(overrides)), overrides=overrides)
            identity = run_identity_of(config)
            key = (Path(config["runs_root"]), run_id(identity, config["seed"]))
            if key in rows:
                rows[key].configs.append(config)
                continue
            row = PlannedRun(list(overrides), [config], identity, config["seed"])
            if row.is_finished:
                row.state = "skipped"
            else:
                dry_build(config)
        except UserError as error:
            raise UserError(f"{error} (in the job {' '.join(overrides)})") from error
        rows[key] = row
    return list(rows.values())


def pending(rows: Sequence[PlannedRun], watchable: Collection[tuple[str, ...]] = ()) -> list[PlannedRun]:
    """Those that have to be trained now; one that another process trains is left to it.

    Args:
        rows: of the sweep.
        watchable: overrides of jobs that the launcher has running already and can wait for.
    """
    for row in rows:
        if row.state == "missing" and row.path is not None:
            row.updated_before = _status(row.path)[0].get("updated_at")
            if tuple(row.overrides) not in watchable and is_held(row.path):
                row.state = "busy"
    return [row for row in rows if row.state == "missing"]


def record(row: PlannedRun, error: BaseException | None, log: Path | None) -> None:
    """Note how a row's job ended. What counts is the run directory; an error says why that is not finished."""
    row.log = log
    if row.is_finished:
        row.state, row.error = "finished", ""
        return
    path = row.path
    status, damage = ({}, None) if path is None else _status(path)
    failed = (
        status.get("state") == layout.FAILED and status.get("updated_at") != row.updated_before
    )  # now, not last time
    if path is not None and failed and (path / layout.ERROR_LOG).exists():
        row.log = path / layout.ERROR_LOG
    error = error or damage
    if path is not None and not failed and is_held(path):
        row.state = "busy"
    elif error is None and not failed:
        row.state = "missing"
    else:
        row.state = "failed"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        row.error = (str(status.get("error") or "") if failed else "") or first


def record_stop(rows: Sequence[PlannedRun], going_on: Collection[tuple[str, ...]] = ()) -> None:
    """Note how the jobs of a sweep stand that a signal, most often Ctrl-C, stopped.

    Args:
        rows: that were left to train.
        going_on: overrides of jobs that do not end with the sweep.
    """
    for row in rows:
        record(row, None, None)
        if row.state in ("missing", "busy") and tuple(row.overrides) in going_on:
            row.state = "going on"
        elif row.state == "missing":
            row.state = "stopped"


def _status(path: Path) -> tuple[dict[str, Any], UserError | None]:
    try:
        return RunDirectory(path).status, None
    except UserError as damage:
        return {}, damage


def name_runs(rows: Sequence[PlannedRun], source: RowSource | None = None) -> None:
    """Note for each run all the experiments that it is.

    Args:
        rows: of the sweep.
        source: what ``conf/experiment`` is composed from; None: as for the job that runs here.
    """
    from experiments.config.rows import record_row

    for row in rows:
        if (path := row.path) is not None:
            for config in row.configs:
                record_row(path, config, source)


def print_rows(rows: Sequence[PlannedRun]) -> None:
    """The table at the end of a sweep; where overrides tell runs of one name and seed apart, it has those too."""
    table = Table(title="sweep")
    differences = _differences(rows)
    for name in ("run", "seed", *(["differs in"] if any(differences) else []), "state"):
        table.add_column(name, overflow="fold")
    table.add_column("AP", justify="right")
    table.add_column("AP50", justify="right")
    table.add_column("directory, or what went wrong", overflow="fold")
    for row, difference in zip(rows, differences, strict=True):
        ap, ap50, last = "", "", ""
        if row.state in ("finished", "skipped"):
            assert row.path is not None
            results = Run(row.path).results or {}
            ap, ap50 = (percent(results[metric_keys.bbox(name)]) for name in ("AP", "AP50"))
            last = str(row.path)
        elif row.state == "failed":
            last = row.error + (f" (log: {row.log})" if row.log else "")
        elif row.state == "busy":
            last = f"another process trains it: {row.path}"
        elif row.state == "going on":
            last = "its job goes on without the sweep; start the sweep again to wait for it"
        elif row.path is not None:
            last = f"stopped before its end; start the sweep again to go on: {row.path}"
        elif row.state == "stopped":
            last = "the sweep was stopped before this run began; start it again to train it"
        style = _STYLES.get(row.state)
        shown = [difference] if any(differences) else []
        cells = (", ".join(row.names), str(row.seed), *shown, row.state, ap, ap50, last)
        table.add_row(*map(Text, cells), style=style)  # as they are: an error may hold brackets
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(soft_wrap=True, width=PIPE_WIDTH)
    console.print(table)


def _differences(rows: Sequence[PlannedRun]) -> list[str]:
    """The differences of the rows beside the columns of names and seeds."""
    if len(rows) < 2:
        return [""] * len(rows)
    shown = ("experiment=", "seed=")
    return job_names([[o for o in row.overrides if not o.startswith(shown)] for row in rows])


def check(rows: Sequence[PlannedRun]) -> None:
    """End with an error where any row has no result.

    Raises:
        SweepError: a row failed or is missing.
    """
    counts = {state: sum(row.state == state for row in rows) for state in ("failed", "missing", "busy")}
    if any(counts.values()):
        parts = [f"{count} {state}" for state, count in counts.items() if count]
        raise SweepError(f"of {len(rows)} runs {', '.join(parts)}; see the table above. Finished runs are kept.")
