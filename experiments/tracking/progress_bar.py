"""The progress of a training on a terminal, or in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.runlog import Writer


class ProgressWriter(Writer):
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
            self._print(
                f"step {step}: val AP {metrics[metric_keys.AP]:.3f}, AP50 {metrics[metric_keys.bbox('AP50')]:.3f}"
            )
        if event != "train":
            return
        shown = {
            "loss": f"{metrics[metric_keys.LOSS_TOTAL]:.3f}",
            "lr": f"{metrics[metric_keys.LEARNING_RATE]:.2e}",
            "img/s": f"{metrics[metric_keys.IMAGES_PER_SECOND]:.1f}",
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
            self._print(f"step {step}/{self._num_steps}  epoch {epoch:.2f}  {numbers}  ETA {eta}")

    def _print(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()
