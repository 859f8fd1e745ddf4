"""Writers of the suite: the progress bar and the run's status; and what a dashboard gets besides."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tqdm import tqdm

from experiments.views import View
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.writer import RunDirectory
from sparse_rcnn.runlog import Writer


class Dashboard(Writer, Protocol):
    """A writer of ``log.writers``: it sees evaluations whole, and the end."""

    def evaluated(self, step: int, epoch: float, record: Mapping[str, Any], views: Sequence[View]) -> None:
        """An evaluation after ``step`` steps: the content of its file, and the views of some images."""

    def finished(self, results: Mapping[str, float]) -> None:
        """The run has come to its end; ``results`` is the content of results.json."""

    def started(self) -> None:
        """The run begins or goes on."""

    def renamed(self, results: Mapping[str, float], timeout: float) -> None:
        """A run that is finished may have got another name; the dashboard has ``timeout`` seconds to learn it.

        Nothing else is called before or after it.
        """


class ProgressWriter:
    """A bar with loss, lr, img/s and the time left on a terminal, a line now and then in a log file."""

    LINE_EVERY_SECONDS = 15.0

    def __init__(self, num_steps: int, start_step: int) -> None:
        self._num_steps = num_steps
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=num_steps, initial=start_step, desc="train", unit="step", dynamic_ncols=True,
            disable=not self._is_terminal,
        )  # fmt: skip
        self._started, self._start_step = time.monotonic(), start_step
        self._last_line = -self.LINE_EVERY_SECONDS

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        if event == "eval":
            self._say(
                f"step {step}: val AP {metrics[metric_keys.AP]:.3f}, AP50 {metrics[metric_keys.bbox('AP50')]:.3f}"
            )
        if event != "train":
            return
        shown = {
            "loss": f"{metrics['train/loss/total']:.3f}",
            "lr": f"{metrics['train/optim/lr']:.2e}",
            "img/s": f"{metrics['train/speed/images_per_second']:.1f}",
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        now = time.monotonic()
        due = now - self._last_line >= self.LINE_EVERY_SECONDS or step == self._num_steps
        if not self._is_terminal and due:
            self._last_line = now
            per_step = (now - self._started) / max(1, step - self._start_step)
            eta = time.strftime("%H:%M:%S", time.gmtime(per_step * (self._num_steps - step)))
            numbers = "  ".join(f"{k} {v}" for k, v in shown.items())
            self._say(f"step {step}/{self._num_steps}  epoch {epoch:.2f}  {numbers}  ETA {eta}")

    def _say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()


class StatusWriter:
    """Keeps status.json at most a few seconds behind the training."""

    EVERY_SECONDS = 5.0

    def __init__(self, directory: RunDirectory, num_steps: int) -> None:
        self._directory, self._num_steps = directory, num_steps
        self._last = 0.0

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        if event != "train" or time.monotonic() - self._last < self.EVERY_SECONDS:
            return
        self._last = time.monotonic()
        self._directory.set_status(layout.RUNNING, step=step, num_steps=self._num_steps, epoch=round(epoch, 4))

    def close(self) -> None:
        pass
