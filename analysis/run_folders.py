"""Where runs lie: the run directories under a folder, and what lies beside them and is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from analysis.runs import NewerSchemaError, Run, RunError

MAX_DEPTH = 4  # folders down from a root in which runs are looked for


def find_runs(root: str | Path) -> list[Run]:
    """All runs under `root`, at most `MAX_DEPTH` folders down, sorted by path and each once.

    `root` may be the folder of all experiments (`<experiment>/<run_id>`), of one, of several such folders, or a run.
    Hidden folders are left out.

    Raises:
        RunError: `root` is not a folder or cannot be read, or a run was written by a newer schema.
    """
    found: dict[Path, Run] = {}
    for run in _runs_under(_checked(root), MAX_DEPTH):
        found.setdefault(run.path.resolve(), run)  # a link leads to the same run again
    return list(found.values())


def find_foreign_folders(root: str | Path) -> list[Path]:
    """The folders at the place of a run that are none, such as one whose creation was interrupted.

    That is beside the runs, or, where an experiment has none, in a folder of `root`; never in a run.

    Raises:
        RunError: as for `find_runs`.
    """
    root = _checked(root)
    runs = [run.path.resolve() for run in find_runs(root)]
    if (root / "meta.json").is_file():
        return [] if root.resolve() in runs else [root]
    holders = {folder for run in runs for folder in run.parents}
    experiments = {run.parent for run in runs}
    if root.resolve() not in experiments:
        experiments |= {folder.resolve() for folder in _folders(root) if folder.resolve() not in holders}
    places = (place for folder in sorted(experiments) for place in _folders(folder))
    return [place for place in places if place.resolve() not in holders.union(runs)]


def _checked(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise RunError(f"{root} is not a folder")
    if not os.access(root, os.R_OK | os.X_OK):
        raise RunError(f"{root} cannot be read: you have no permission to")
    return root


def _runs_under(path: Path, depth: int) -> Iterator[Run]:
    """The run that a folder is, or else those in the folders in it, `depth` folders down."""
    run = _run_or_none(path)
    if run is not None:
        yield run
    elif depth:
        for folder in _folders(path):
            yield from _runs_under(folder, depth - 1)


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError:  # it vanished, or is someone else's
        return []


def _run_or_none(path: Path) -> Run | None:
    try:
        return Run(path)
    except NewerSchemaError:
        raise
    except (RunError, OSError):
        return None
