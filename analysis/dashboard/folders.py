"""Where runs lie under a root, and whether one of them has changed since it was last read."""

from __future__ import annotations

import os
from pathlib import Path

from analysis.runs import RunError

WATCHED = ("", "eval", "views", "names")  # the folders of a run whose files the page shows

Signature = tuple[tuple[str, int, int], ...]


def find_folders(root: Path) -> list[Path]:
    """The folders at the places of runs, `<experiment>/<run id>`, whatever they hold, sorted.

    `root` may be a run itself or hold runs without a folder of their experiment; an experiment without runs is listed
    too, so that nothing is passed over in silence.

    Raises:
        RunError: `root` is not a folder or cannot be read.
    """
    if not root.is_dir():
        raise RunError(f"{root} is not a folder; give the runs_root of your training as --runs (by default runs/)")
    if (root / "meta.json").is_file():
        return [root]
    try:
        first = _folders(root)
    except OSError as error:
        raise RunError(f"{root} cannot be read: {error.strerror}") from error
    return [path for folder in first for path in _runs_of(folder)]


def signature(path: Path) -> Signature:
    """What changes when a file of a run does: its files with their times (ns) and sizes (bytes)."""
    found = []
    for name in WATCHED:
        try:
            entries = [entry for entry in os.scandir(path / name) if not entry.name.startswith(".")]
        except OSError:  # not there yet, or not for us: so it reads too
            continue
        for entry in entries:
            try:
                stat = entry.stat()
                found.append((f"{name}/{entry.name}", stat.st_mtime_ns, stat.st_size))
            except OSError:  # replaced a moment ago; seen at the next look
                found.append((f"{name}/{entry.name}", 0, 0))
    return tuple(sorted(found))


def _runs_of(folder: Path) -> list[Path]:
    if (folder / "meta.json").is_file():
        return [folder]
    try:
        return _folders(folder) or [folder]
    except OSError:
        return [folder]


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
