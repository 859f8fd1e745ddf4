"""status.json of a run, kept up to date by its training."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.writer import RunDirectory
from sparse_rcnn.runlog import Writer


class StatusWriter(Writer):
    """Keeps status.json at most a few seconds behind the training.

    Args:
        directory: of the run.
        start_step: where this process begins.
        num_steps, num_steps_per_epoch: of the whole training, and of an epoch.
    """

    EVERY_SECONDS = 5.0

    def __init__(self, directory: RunDirectory, start_step: int, num_steps: int, num_steps_per_epoch: int) -> None:
        self._directory, self._start_step = directory, start_step
        self._num_steps, self._num_steps_per_epoch = num_steps, num_steps_per_epoch
        self._last = 0.0

    def started(self) -> None:
        self._set(layout.RUNNING, self._start_step)

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        if event == "train" and time.monotonic() - self._last >= self.EVERY_SECONDS:
            self._last = time.monotonic()
            self._set(layout.RUNNING, step)

    def finished(self, results: Mapping[str, float]) -> None:
        self._set(layout.FINISHED, self._num_steps)

    def _set(self, state: str, step: int) -> None:
        epoch = round(step / self._num_steps_per_epoch, 4)
        self._directory.set_status(state, step=step, num_steps=self._num_steps, epoch=epoch)
