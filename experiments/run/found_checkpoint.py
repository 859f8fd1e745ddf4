"""The checkpoint that a run goes on from, and what is said about damaged ones."""

from __future__ import annotations

import sys

from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.checkpoints import DamagedCheckpoint, clear_leftovers, newest_whole
from sparse_rcnn.rundir.writer import RunDirectory


def find_checkpoint(directory: RunDirectory) -> int | None:
    """The step of the newest whole checkpoint of a run, None where there is none; for the holder of its lock.

    Damaged ones are set aside, noted in the status, which W&B has a copy of, and named on stderr. What killed processes
    left is deleted.

    Raises:
        UserError: a checkpoint cannot be read, or not be set aside.
    """
    folder = directory.path / layout.CHECKPOINTS
    clear_leftovers(folder)
    found: list[DamagedCheckpoint] = []

    def note(damaged: DamagedCheckpoint) -> None:
        directory.record_set_aside(damaged.aside.name, damaged.problem)
        found.append(damaged)

    step = newest_whole(folder, note)
    goes_on = "from the start" if step is None else f"from step {step}"
    for damaged in found:
        what = f"{damaged.path} is damaged: {damaged.problem}; set aside as {damaged.aside.name}"
        print(f"warning: {what}, the run goes on {goes_on}", file=sys.stderr)
    return step
