"""Whether the files of a run have changed since they were last read."""

from __future__ import annotations

import os
from pathlib import Path

from sparse_rcnn.rundir import layout

WATCHED = ("", layout.EVALUATIONS, layout.VIEWS, layout.NAMES)  # the folders of a run whose files the page shows

Signature = tuple[tuple[str, int, int], ...]


def signature(path: Path) -> Signature:
    """The files of a run with their times (ns) and sizes (bytes): another value when one of them changes."""
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
