"""The runs of a command, from folders and a W&B project, and the recipe that they are compared in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.wandb_runs import find_wandb_runs
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import conf_dir
from sparse_rcnn.rundir.find import find_foreign_folders, find_runs
from sparse_rcnn.rundir.reader import Run, RunSource
from sparse_rcnn.rundir.summary import RunSummary, summarise

RECIPES = conf_dir() / "recipe"


def load_summaries(roots: Iterable[str | Path], wandb_project: str | None = None) -> list[RunSummary]:
    """All runs under some folders and of a W&B project, each run once however many copies there are, sorted by run id.

    Of several copies a finished one is taken, the newest of those, a directory before W&B.

    Raises:
        UserError: a root is not a folder, the project cannot be read, or a run was written by a newer schema.
    """
    sources: list[RunSource] = []
    for root in roots:
        sources += find_runs(root)
        if foreign := [str(path) for path in find_foreign_folders(root)]:
            print(f"skipped, not a run or damaged: {', '.join(foreign)}", file=sys.stderr)
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
        UserError: no recipe is given and the runs have none or several, or the given one is neither a run's nor this
            suite's.
    """
    recipes = sorted({summary.recipe for summary in summaries})
    names = ", ".join(recipes)
    if asked is not None:
        # One of the suite's that nobody has trained yet: every row is a dash and the command that would train it.
        own = sorted(path.stem for path in RECIPES.glob("*.yaml"))
        if asked not in (*recipes, *own):
            known = ", ".join(sorted({*recipes, *own}))
            raise UserError(f"there is no run of recipe {asked}; choose one of those there are with --recipe: {known}")
        return asked
    if not summaries:
        raise UserError("there is no run: give the folder that holds them with --runs, or a project with --wandb")
    if len(recipes) > 1:
        raise UserError(f"the runs are of several recipes, {names}, which do not mix: choose one with --recipe")
    return recipes[0]


def _preference(summary: RunSummary) -> tuple[Any, ...]:
    is_directory = isinstance(summary.source, Run)
    return summary.finished, summary.updated_at, is_directory, sorted(summary.values.items()), repr(summary.source)
