"""Where runs lie under a folder, and the folders beside them that are not runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparse_rcnn.errors import NewerSchemaError, RunError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.reader import Run

MAX_DEPTH = 4  # folders down from a root in which runs are looked for


@dataclass(frozen=True)
class Places:
    """Folders under a root, sorted by path.

    Attributes:
        runs: those with a meta.json, each once, whatever is in it.
        foreign: those at the place of a run that have none, such as one whose creation was interrupted: beside the runs
            or, where a folder of the root holds no run, the folders in it (the folder itself where it holds none).
    """

    runs: list[Path]
    foreign: list[Path]


def find_places(root: str | Path) -> Places:
    """The runs under ``root``, at most `MAX_DEPTH` folders down, and what lies beside them.

    ``root`` may be a run, the folder of one experiment, of all (`<experiment>/<run_id>`), or of several such folders.
    Hidden folders are left out, links are followed, and nothing inside a run is looked at. Safe while runs are written.

    Raises:
        RunError: ``root`` is not a folder or cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise RunError(f"{root} {problem}; give the runs_root of a training, by default runs/")
    if not os.access(root, os.R_OK | os.X_OK):
        raise RunError(f"{root} cannot be read: you have no permission to")
    found: dict[Path, Path] = {}
    for path in _runs_under(root, MAX_DEPTH):
        found.setdefault(path.resolve(), path)  # a link leads to the same run again
    return Places(list(found.values()), [] if is_run(root) else _foreign(root, found))


def find_runs(root: str | Path) -> list[Run]:
    """The runs under ``root`` that can be read.

    Raises:
        RunError: as for `find_places`, or a run was written by a newer schema.
    """
    return [run for path in find_places(root).runs if (run := _run_or_none(path)) is not None]


def find_foreign_folders(root: str | Path) -> list[Path]:
    """The folders at the places of runs that are none, or whose meta.json is damaged.

    Raises:
        RunError: as for `find_runs`.
    """
    places = find_places(root)
    return sorted([*places.foreign, *(path for path in places.runs if _run_or_none(path) is None)])


def is_run(path: Path) -> bool:
    """Whether a folder is at least the beginning of a run: it has a meta.json."""
    return (path / layout.META).is_file()


def _run_or_none(path: Path) -> Run | None:
    try:
        return Run(path)
    except NewerSchemaError:
        raise
    except (RunError, OSError):
        return None


def _runs_under(path: Path, depth: int) -> Iterator[Path]:
    if is_run(path):
        yield path
    elif depth:
        for folder in _folders(path):
            yield from _runs_under(folder, depth - 1)


def _foreign(root: Path, runs: dict[Path, Path]) -> list[Path]:
    """The folders at places of runs that are none, from the runs: resolved, and as they were walked to."""
    known = {folder for run in runs for folder in (run, *run.parents)}
    walked = {folder for path in runs.values() for folder in (path, *path.parents)}

    def is_known(folder: Path) -> bool:
        return folder in walked or folder.resolve() in known

    holders = {path.parent for path in runs.values()}  # whose folders are runs; never outside the root
    foreign: list[Path] = []
    if root not in holders:
        for folder in _folders(root):
            if not is_known(folder):
                (holders.add if _folders(folder) else foreign.append)(folder)
    foreign += [place for holder in holders for place in _folders(holder) if not is_known(place)]
    return sorted(foreign)


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:  # it vanished, or is someone else's
        return []
