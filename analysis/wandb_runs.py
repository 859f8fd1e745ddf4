"""Runs of a Weights & Biases project, read as those of a folder are: plain dicts out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from analysis.runs import RunError, check_meta

COPY = "run_directory"  # the key of a run's summary that holds what the run directory said last
STEP, EPOCH, AP = "progress/step", "progress/epoch", "val/bbox/AP"


class WandbRun:
    """A run on Weights & Biases, with what tables and curves need of a `Run`.

    Attributes:
        meta: meta.json, whose schema version is checked here.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        copy = run.summary_metrics.get(COPY)
        if not isinstance(copy, Mapping) or not isinstance(copy.get("meta"), Mapping):
            raise RunError(f"{run.id} on W&B is no run of this suite: its summary has no {COPY}")
        self._copy = copy
        self.meta: dict[str, Any] = dict(copy["meta"])
        check_meta(self.meta, f"{run.id} on W&B")

    def __repr__(self) -> str:
        return f"WandbRun({self._run.id!r})"

    @property
    def run_id(self) -> str:
        """`<identity>-seed<k>`."""
        return self.meta["run_id"]

    @property
    def experiments(self) -> list[str]:
        """The names of all rows that this run is."""
        return sorted({self.meta["experiment"], *(self._copy.get("experiments") or [])})

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return dict(self._run.config)

    @property
    def status(self) -> dict[str, Any]:
        """status.json as it was when W&B was told last."""
        return dict(self._copy.get("status") or {"state": "created"})

    @property
    def results(self) -> dict[str, Any] | None:
        """The final numbers under flat keys, or None while the run has none."""
        results = self._copy.get("results")
        return None if results is None else dict(results)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far, sorted by their step; of their metrics the AP alone."""
        rows = {}
        try:
            # scan_history gives every row; a run's `history` would be a sample of them.
            for row in self._run.scan_history(keys=[STEP, EPOCH, AP]):
                if all(isinstance(row.get(key), int | float) and math.isfinite(row[key]) for key in (STEP, EPOCH, AP)):
                    rows[int(row[STEP])] = row
        except Exception as error:  # whatever the network, the server and the key do wrong
            raise wandb_refuses(f"W&B does not give the history of {self.run_id}", error) from error
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
    """The runs of ENTITY/PROJECT, and how many others are in it that are none of this suite's.

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
        raise wandb_refuses(f"W&B does not give the runs of {project}", error) from error
    own = [run for run in found if isinstance(run.summary_metrics.get(COPY), Mapping)]
    return [WandbRun(run) for run in own], len(found) - len(own)


def wandb_refuses(what: str, error: Exception) -> RunError:
    """What a user can do about an error of W&B's."""
    lines = str(error).strip().splitlines()
    return RunError(
        f"{what}: {type(error).__name__}: {lines[0] if lines else ''}; it needs a key (wandb login) and a network"
    )
