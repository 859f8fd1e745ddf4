"""The training step and the loop over steps, with nothing hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sparse_rcnn.criterion import Criterion, Share
from sparse_rcnn.distributed import World
from sparse_rcnn.errors import UserError
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.precision import autocast, memory_format
from sparse_rcnn.schedule import WarmupMultiStep
from sparse_rcnn.step_log import StepLog, StepRecord, with_advice
from sparse_rcnn.structures import Batch, Targets

NO_TARGETS = Targets.from_lists([], [])


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs.

    Args:
        num_steps, num_steps_per_epoch: of the whole training, and what makes an epoch in the log and the schedule.
        num_micro_batches: batches of a step on each process, whose gradients add up.
        clip_norm: limit of the norm of the whole model's gradient; None: no clipping.
        precision: ``fp32`` or ``bf16``; matching and losses are float32 with either.
        channels_last: memory format of the images, and of the model.
        log_every: steps between two lines of the log.
        eval_every: steps between two evaluations; None: none within the training.
        checkpoint_every: steps between two checkpoints; None: at the end, before evaluations and on a stop request.
    """

    num_steps: int
    num_steps_per_epoch: int
    num_micro_batches: int
    clip_norm: float | None
    precision: str
    channels_last: bool
    log_every: int
    eval_every: int | None
    checkpoint_every: int | None

    def next_checkpoint(self, step: int) -> int:
        """The next step to save after ``step``; there is a checkpoint before every evaluation and at the end, too."""
        intervals = [every for every in (self.eval_every, self.checkpoint_every) if every is not None]
        return min([self.num_steps, *((step // every + 1) * every for every in intervals)])

    def is_evaluation_due(self, step: int) -> bool:
        """Whether an evaluation within the training follows after ``step`` steps."""
        return self.eval_every is not None and 0 < step < self.num_steps and step % self.eval_every == 0


@dataclass
class Learner:
    """A detector on this process with everything that trains it.

    Attributes:
        model: the detector; `distribute` wraps it in DistributedDataParallel where several processes train.
        criterion, optimizer, schedule: loss, update and learning rate.
        ema: moving average of the weights, or None.
        settings: of the loop.
        world: the processes that train together.
        base_lrs: learning rate of each parameter group before the schedule.
    """

    model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    schedule: WarmupMultiStep
    ema: AveragedModel | None
    settings: LoopSettings
    world: World
    base_lrs: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def detector(self) -> nn.Module:
        """The model without its wrapper."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def distribute(self) -> None:
        """Let the processes exchange gradients; all of them have to call it."""
        if self.world.size > 1:
            device = self.world.device
            ids = [device.index] if device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids, gradient_as_bucket_view=True)

    def set_lr(self, step: int) -> float:
        """Set the learning rates of a step; the one of the first parameter group."""
        factor = self.schedule.factor(step, self.settings.num_steps_per_epoch)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor
        lr: float = self.optimizer.param_groups[0]["lr"]
        return lr

    def update(self) -> Tensor:
        """Clip, step, zero and average; the norm of the gradient before clipping, still on the device."""
        max_norm = math.inf if self.settings.clip_norm is None else self.settings.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self._parameters, max_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.detector)
        return grad_norm


def counts_of_step(criterion: Criterion, micro_batches: Sequence[Batch]) -> list[float]:
    """The criterion's counts, summed over the micro-batches of this process; those of no targets for none."""
    counts = [criterion.counts(batch.targets) for batch in micro_batches] or [criterion.counts(NO_TARGETS)]
    return [float(sum(column)) for column in zip(*counts, strict=True)]


def training_step(
    learner: Learner,
    micro_batches: Sequence[Batch],
    share: Share,
    after_matching: Callable[[], None] = lambda: None,
) -> Tensor:
    """Forward and backward of one global batch's share; gradients add up over the micro-batches.

    Every micro-batch is divided by the same ``share``, so their sum is the gradient of the whole batch.

    Returns:
        Weighted losses (parts, S), still on the device.
    """
    model, settings, world = learner.model, learner.settings, learner.world
    total: Tensor | None = None
    for i, batch in enumerate(micro_batches):
        moved = batch.to(world.device, non_blocking=True)
        images = moved.images.contiguous(memory_format=memory_format(settings.channels_last))
        last = i == len(micro_batches) - 1
        # DDP exchanges gradients once a step, with the last micro-batch.
        hold = nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()
        with hold:
            with autocast(settings.precision, world.device):
                output = model(images, moved.image_sizes_hw, moved.targets)
            losses = learner.criterion(output, moved.targets, moved.image_sizes_hw, share)
            if i == 0:
                after_matching()
            losses.total.backward()
        stacked = losses.stacked()
        total = stacked if total is None else total + stacked
    assert total is not None
    return total


def train_steps(learner: Learner, batches: Iterator[Batch], steps: range, log: StepLog, stop: StopRequest) -> None:
    """Train consecutive steps; afterwards all of them are logged.

    Args:
        learner: in any mode; it is switched to training.
        batches: yields ``num_micro_batches`` batches per step, from the position of ``steps.start`` on.
        steps: to do, counted from 0.
        log: gets the numbers of each step.
        stop: asked at every step boundary; any rank's request stops all ranks.

    Raises:
        Interrupted: on request, before the step that it names.
        NonFiniteError: a loss or gradient is NaN or infinite; names the stage, the tensor and the lr.
        UserError: the data cannot be read; on the other ranks PeerError.
    """
    world, settings = learner.world, learner.settings
    learner.model.train()
    for step in steps:
        started = perf_counter()
        micro_batches, data_error = _next_batches(batches, settings.num_micro_batches)
        data_seconds = perf_counter() - started
        # One exchange between the hosts answers all: did anyone fail to read, or ask to stop, and what is in the step.
        num_errors, num_stops, *counts = world.sum_over_ranks(
            [float(data_error is not None), float(stop.requested), *counts_of_step(learner.criterion, micro_batches)]
        )
        if num_errors:
            world.raise_together(data_error)
        if num_stops:
            log.flush()
            raise Interrupted(step, stop.signal_number)

        lr = learner.set_lr(step)
        try:
            # The matching has just waited for the device: reading the step before costs no second wait.
            share = tuple(count / world.size for count in counts)
            losses = training_step(learner, micro_batches, share, log.flush)
        except NonFiniteError as error:
            raise NonFiniteError(with_advice(str(error), step, lr)) from error
        grad_norm = learner.update()
        num_images = sum(len(b) for b in micro_batches)
        log.keep(StepRecord(step, lr, losses, grad_norm, num_images, data_seconds))
    log.flush()


def _next_batches(batches: Iterator[Batch], num_micro_batches: int) -> tuple[list[Batch], UserError | None]:
    """The batches of a step, or the error of the data; the caller shares it with the other ranks before it raises."""
    try:
        return [next(batches) for _ in range(num_micro_batches)], None
    except UserError as error:
        return [], error
