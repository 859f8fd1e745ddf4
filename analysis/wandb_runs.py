"""Runs of a Weights & Biases project, read as those of a folder are: plain dicts out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sparse_rcnn.errors import NewerSchemaError, RunError
from sparse_rcnn.rundir import layout, metric_keys, remote_copy
from sparse_rcnn.rundir.reader import check_meta

STEP, EPOCH, AP = "progress/step", "progress/epoch", metric_keys.AP


class WandbRun:
    """A run on Weights & Biases, with what tables and curves need of a `Run`.

    Attributes:
        meta: meta.json, whose schema version is checked here.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._summary = run.summary_metrics
        meta = self._summary.get(remote_copy.META)
        if not isinstance(meta, Mapping):
            raise RunError(f"{run.id} on W&B: its summary has no {remote_copy.META}")
        self.meta: dict[str, Any] = dict(meta)
        check_meta(self.meta, f"{run.id} on W&B")

    def __repr__(self) -> str:
        return f"WandbRun({self._run.id!r})"

    @property
    def run_id(self) -> str:
        """`<identity>-seed<k>`."""
        return self.meta["run_id"]

    @property
    def experiments(self) -> list[str]:
        """The names of all rows that this run is, as its directory had them."""
        recorded = self._summary.get(remote_copy.EXPERIMENTS)
        return sorted(recorded) if recorded else [self.meta["experiment"]]

    @property
    def deviations(self) -> dict[str, list[str]]:
        """For each of the `experiments` what overrides changed of it; empty lists for plain ones, and if unknown."""
        recorded = self._summary.get(remote_copy.DEVIATIONS) or {}
        return {name: list(recorded.get(name) or []) for name in self.experiments}

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return dict(self._run.config)

    @property
    def status(self) -> dict[str, Any]:
        """status.json as it was last logged to W&B."""
        return dict(self._summary.get(remote_copy.STATUS) or {"state": layout.CREATED})

    @property
    def results(self) -> dict[str, Any] | None:
        """The final numbers under flat keys, or None while the run has none."""
        results = self._summary.get(remote_copy.RESULTS)
        return None if results is None else dict(results)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far, sorted by their step; of their metrics the AP alone."""
        rows = {}
        try:
            # scan_history gives every row; a run's `history` would be a sample of them.
            for row in self._run.scan_history(keys=[STEP, EPOCH, AP], use_cache=False):
                if all(isinstance(row.get(key), int | float) and math.isfinite(row[key]) for key in (STEP, EPOCH, AP)):
                    rows[int(row[STEP])] = row
        except Exception as error:  # whatever the network, the server and the key do wrong
            raise wandb_error(f"W&B does not give the history of {self.run_id}", error) from error
        # The digits of the evaluation's file.
        return [
            {"step": step, "epoch": round(row[EPOCH], 6), "metrics": {AP: row[AP]}}
            for step, row in sorted(rows.items())
        ]


def split_project(text: str, option: str) -> tuple[str, str]:
    """Entity and project of ENTITY/PROJECT.

    Raises:
        RunError: it is something else; names the option.
    """
    entity, slash, project = text.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise RunError(f"{option} {text}: give ENTITY/PROJECT, as in the project's address")
    return entity, project


def find_wandb_runs(project: str) -> tuple[list[WandbRun], int]:
    """The runs of ENTITY/PROJECT, and how many others are in it that cannot be read as runs of this suite.

    Raises:
        RunError: the project cannot be read, or a run was written by a newer schema.
    """
    entity, name = split_project(project, "--wandb")
    try:
        import wandb
    except ImportError as error:
        raise RunError(f"--wandb {project}: {error}: pip install wandb") from error
    found = []
    try:
        # Not list(): that asks for the length first, and a TypeError in there is an empty project.
        for run in wandb.Api().runs(f"{entity}/{name}", per_page=100, lazy=False):
            found.append(run)
    except Exception as error:  # whatever the network, the server and the key do wrong
        raise wandb_error(f"W&B does not give the runs of {project}", error) from error
    runs = []
    for run in found:
        try:
            runs.append(WandbRun(run))
        except NewerSchemaError:
            raise
        except RunError:  # somebody else's
            continue
    return runs, len(found) - len(runs)


def wandb_error(what: str, error: Exception) -> RunError:
    """An error of W&B as one for the user, with a way out."""
    lines = str(error).strip().splitlines()
    return RunError(
        f"{what}: {type(error).__name__}: {lines[0] if lines else ''}; it needs a key (wandb login) and a network"
    )
