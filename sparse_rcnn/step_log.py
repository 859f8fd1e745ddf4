"""The log of training steps: each is read one step later, so that no scalar is waited for in the step itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from sparse_rcnn.criterion import Criterion
from sparse_rcnn.distributed import World
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.runlog import Writer


@dataclass(frozen=True)
class StepRecord:
    """The numbers of a finished step, on the device until the next one runs."""

    step: int
    lr: float
    losses: Tensor  # (parts, S)
    grad_norm: Tensor  # ()
    num_images: int
    data_seconds: float


def with_advice(what: str, step: int, lr: float) -> str:
    """A message about a number that is not finite, with the step, the learning rate and what to do."""
    return (
        f"{what} at step {step} with lr {lr:.3g}: lower the learning rate (rates of SGD recipes diverge with AdamW), "
        "warm up longer, or look at the images of this step"
    )


class StepLog:
    """Checks and writes the numbers of training steps.

    Args:
        world: the processes over which numbers are averaged.
        writers: of this process, to which they go.
        num_steps, num_steps_per_epoch: of the whole training, and of an epoch.
        log_every: steps between two lines; the last step has one in any case.
        criterion: whose losses they are.
    """

    def __init__(
        self,
        world: World,
        writers: Sequence[Writer],
        num_steps: int,
        num_steps_per_epoch: int,
        log_every: int,
        criterion: Criterion,
    ) -> None:
        self._world, self._writers = world, writers
        self._num_steps, self._num_steps_per_epoch, self._log_every = num_steps, num_steps_per_epoch, log_every
        self._criterion = criterion
        self._pending: StepRecord | None = None
        self.restart()

    def restart(self) -> None:
        """Start a new interval of the speed measurement: what was done before does not count."""
        self._since = perf_counter()
        self._num_images = 0
        self._data_seconds = 0.0

    def keep(self, record: StepRecord) -> None:
        """Take the numbers of a step, to be read at the next `flush`."""
        assert self._pending is None
        self._pending = record
        self._num_images += record.num_images
        self._data_seconds += record.data_seconds

    def flush(self) -> None:
        """Check the pending step, and log it if it is due.

        Raises:
            NonFiniteError: one of its numbers is NaN or infinite.
        """
        record, self._pending = self._pending, None
        if record is None:
            return
        num_stages = record.losses.shape[1]
        values = torch.cat((record.losses.flatten(), record.grad_norm[None])).tolist()
        if not all(math.isfinite(v) for v in values):
            self._name_cause(record, values, num_stages)
        done = record.step + 1
        if done % self._log_every and done != self._num_steps:
            return
        seconds = perf_counter() - self._since
        *values, num_images = self._world.sum_over_ranks([*values, self._num_images])
        values = [v / self._world.size for v in values]
        metrics = {
            metric_keys.LOSS_TOTAL: sum(values[:-1]),
            **{
                metric_keys.loss(part): sum(values[i * num_stages : (i + 1) * num_stages])
                for i, part in enumerate(self._criterion.part_names)
            },
            **{
                metric_keys.stage_loss(s, part): values[i * num_stages + s]
                for i, part in enumerate(self._criterion.part_names)
                for s in range(num_stages if self._criterion.has_stages else 0)
            },
            metric_keys.LEARNING_RATE: record.lr,
            metric_keys.GRAD_NORM: values[-1],
            metric_keys.IMAGES_PER_SECOND: num_images / seconds,
            metric_keys.DATA_FRACTION: self._data_seconds / seconds,
        }
        if self._world.device.type == "cuda":
            metrics[metric_keys.MAX_ALLOCATED_GIB] = torch.cuda.max_memory_allocated(self._world.device) / 2**30
        for writer in self._writers:
            writer.log("train", done, done / self._num_steps_per_epoch, metrics)
        self.restart()

    def _name_cause(self, record: StepRecord, values: list[float], num_stages: int) -> None:
        for i, value in enumerate(values[:-1]):
            if not math.isfinite(value):
                stage = f"stage {i % num_stages}: " if self._criterion.has_stages else ""
                what = f"{stage}{self._criterion.part_names[i // num_stages]} is {value}"
                raise NonFiniteError(with_advice(what, record.step, record.lr))
        raise NonFiniteError(with_advice(f"the gradient norm is {values[-1]}", record.step, record.lr))
