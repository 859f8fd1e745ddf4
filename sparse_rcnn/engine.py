"""The training step and the loop around it, with nothing hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sparse_rcnn.distributed import World
from sparse_rcnn.errors import UserError
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.losses import SetCriterion
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.precision import autocast
from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.runlog import Writer
from sparse_rcnn.schedule import WarmupMultiStep
from sparse_rcnn.structures import Batch

PARTS = ("loss_class", "loss_l1", "loss_giou")


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


@dataclass(frozen=True)
class _StepRecord:
    """What a finished step leaves on the device, to be looked at while the next one runs."""

    step: int
    lr: float
    losses: Tensor  # (3, S)
    grad_norm: Tensor  # ()
    num_images: int
    data_seconds: float


def normalizer(num_boxes: float, world_size: int) -> float:
    """The divisor of losses: the global batch's boxes averaged over the processes, at least 1 (semantics.md#losses)."""
    return max(num_boxes / world_size, 1.0)


def training_step(
    model: nn.Module,
    criterion: SetCriterion,
    micro_batches: Sequence[Batch],
    num_boxes: float,
    world: World,
    settings: LoopSettings,
    after_matching: Callable[[], None] = lambda: None,
) -> Tensor:
    """Forward and backward of one global batch's share; gradients add up over the micro-batches.

    Every micro-batch is divided by the same ``num_boxes``, so their sum is the gradient of the whole batch.

    Returns:
        Weighted losses (3, S): class, L1, GIoU of each stage, still on the device.
    """
    total: Tensor | None = None
    for i, batch in enumerate(micro_batches):
        moved = batch.to(world.device, non_blocking=True)
        images = moved.images
        if settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        last = i == len(micro_batches) - 1
        # DDP exchanges gradients once a step, with the last micro-batch.
        hold = nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()
        with hold:
            with autocast(settings.precision, world.device):
                outputs = model(images, moved.image_sizes_hw)
            losses = criterion(outputs, moved.targets, moved.image_sizes_hw, num_boxes)
            if i == 0:
                after_matching()
            losses.total.backward()
        stacked = losses.stacked()
        total = stacked if total is None else total + stacked
    assert total is not None
    return total


def train(
    model: nn.Module,
    criterion: SetCriterion,
    optimizer: torch.optim.Optimizer,
    base_lrs: Sequence[float],
    schedule: WarmupMultiStep,
    batches: Iterator[Batch],
    world: World,
    settings: LoopSettings,
    start_step: int,
    ema: AveragedModel | None,
    writers: Sequence[Writer],
    save_checkpoint: Callable[[int], None],
    evaluate: Callable[[int], None],
    stop: StopRequest,
) -> None:
    """Train from ``start_step`` to ``settings.num_steps``.

    Args:
        model: the detector, wrapped in DistributedDataParallel where several processes train.
        base_lrs: learning rate of each parameter group before the schedule.
        batches: yields ``num_micro_batches`` batches per step, from the position of ``start_step`` on.
        save_checkpoint, evaluate: called on every rank with the number of steps done; ``evaluate``
            does nothing where that evaluation exists already.
        stop: asked at every step boundary; any rank's request stops all ranks after a checkpoint. An evaluation has
            one before it and is stopped at once.

    Raises:
        Interrupted: on request, with the checkpoint saved.
        NonFiniteError: a loss or gradient is NaN or infinite; names the stage, the tensor and the lr.
        UserError: the data cannot be read; on the other ranks PeerError.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    log = _StepLog(world, settings, writers)
    if start_step and _due(start_step, settings.eval_every) and start_step < settings.num_steps:
        with stop.at_once(start_step):
            evaluate(start_step)  # killed after the checkpoint and before its evaluation; a second one is skipped
    model.train()
    log.restart()
    for step in range(start_step, settings.num_steps):
        started = perf_counter()
        micro_batches, data_error = _next_batches(batches, settings.num_micro_batches)
        data_seconds = perf_counter() - started
        # One exchange between the hosts answers all: how many boxes, did anyone fail to read, or ask to stop.
        num_boxes, num_errors, num_stops = world.sum_over_ranks(
            [
                sum(b.targets.num_boxes for b in micro_batches),
                float(data_error is not None),
                float(stop.requested),
            ]
        )
        if num_errors:
            world.raise_together(data_error)
        if num_stops:
            log.flush()
            save_checkpoint(step)
            raise Interrupted(step, stop.signal_number)

        factor = schedule.factor(step, settings.num_steps_per_epoch)
        for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
            group["lr"] = base_lr * factor
        lr = optimizer.param_groups[0]["lr"]

        try:
            # The matching has just waited for the device: looking at the step before costs no second wait.
            losses = training_step(
                model, criterion, micro_batches, normalizer(num_boxes, world.size), world, settings, log.flush
            )
        except NonFiniteError as error:
            raise NonFiniteError(_advice(str(error), step, lr)) from error
        max_norm = math.inf if settings.clip_norm is None else settings.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update_parameters(model.module if isinstance(model, DistributedDataParallel) else model)
        num_images = sum(len(b) for b in micro_batches)
        log.keep(_StepRecord(step, lr, losses, grad_norm, num_images, data_seconds))

        done = step + 1
        last = done == settings.num_steps
        evaluation_due = _due(done, settings.eval_every) and not last
        if last or evaluation_due or _due(done, settings.checkpoint_every):
            log.flush()
            save_checkpoint(done)
        if evaluation_due:
            with stop.at_once(done):
                evaluate(done)
            model.train()
            log.restart()


def _next_batches(batches: Iterator[Batch], num_micro_batches: int) -> tuple[list[Batch], UserError | None]:
    """The batches of a step, or what is wrong with the data; the caller tells the other ranks before it raises."""
    try:
        return [next(batches) for _ in range(num_micro_batches)], None
    except UserError as error:
        return [], error


def _due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def _advice(what: str, step: int, lr: float) -> str:
    return (
        f"{what} at step {step} with lr {lr:.3g}: lower the learning rate (Sparse R-CNN trains with AdamW at 2.5e-5; "
        "rates of SGD recipes diverge), warm up longer, or look at the images of this step"
    )


class _StepLog:
    """Looks at each step one step later, so that no scalar is read back in the step itself."""

    def __init__(self, world: World, settings: LoopSettings, writers: Sequence[Writer]) -> None:
        self._world, self._settings, self._writers = world, settings, writers
        self._pending: _StepRecord | None = None
        self.restart()

    def restart(self) -> None:
        """Start a new interval of the speed measurement: what was done before does not count."""
        self._since = perf_counter()
        self._num_images = 0
        self._data_seconds = 0.0

    def keep(self, record: _StepRecord) -> None:
        assert self._pending is None
        self._pending = record
        self._num_images += record.num_images
        self._data_seconds += record.data_seconds

    def flush(self) -> None:
        """Check the pending step, and write it where it is one to be logged."""
        record, self._pending = self._pending, None
        if record is None:
            return
        num_stages = record.losses.shape[1]
        values = torch.cat((record.losses.flatten(), record.grad_norm[None])).tolist()
        if not all(math.isfinite(v) for v in values):
            self._blame(record, values, num_stages)
        done = record.step + 1
        if done % self._settings.log_every and done != self._settings.num_steps:
            return
        seconds = perf_counter() - self._since
        *values, num_images = self._world.sum_over_ranks([*values, self._num_images])
        values = [v / self._world.size for v in values]
        metrics = {
            metric_keys.LOSS_TOTAL: sum(values[:-1]),
            **{
                metric_keys.loss(part): sum(values[i * num_stages : (i + 1) * num_stages])
                for i, part in enumerate(PARTS)
            },
            **{
                metric_keys.stage_loss(s, part): values[i * num_stages + s]
                for i, part in enumerate(PARTS)
                for s in range(num_stages)
            },
            metric_keys.LEARNING_RATE: record.lr,
            metric_keys.GRAD_NORM: values[-1],
            metric_keys.IMAGES_PER_SECOND: num_images / seconds,
            metric_keys.DATA_FRACTION: self._data_seconds / seconds,
        }
        if self._world.device.type == "cuda":
            metrics[metric_keys.MAX_ALLOCATED_GIB] = torch.cuda.max_memory_allocated(self._world.device) / 2**30
        for writer in self._writers:
            writer.log("train", done, done / self._settings.num_steps_per_epoch, metrics)
        self.restart()

    def _blame(self, record: _StepRecord, values: list[float], num_stages: int) -> None:
        for i, value in enumerate(values[:-1]):
            if not math.isfinite(value):
                what = f"stage {i % num_stages}: {PARTS[i // num_stages]} is {value}"
                raise NonFiniteError(_advice(what, record.step, record.lr))
        raise NonFiniteError(_advice(f"the gradient norm is {values[-1]}", record.step, record.lr))
