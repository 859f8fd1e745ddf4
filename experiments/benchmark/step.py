"""A row's training step, part by part: forward, criterion, backward, update."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from experiments.benchmark.forward import rows_by_part, with_total
from experiments.benchmark.measure import Side
from experiments.benchmark.meters import Clock, Work
from experiments.benchmark.parts import BACKWARD, REST, Attribution, Meter
from experiments.benchmark.replacing import replaced
from experiments.benchmark.report import Row
from experiments.benchmark.workload import Setting, Workload
from experiments.config.build import build_criterion, build_optimizer
from sparse_rcnn.distributed import World
from sparse_rcnn.engine import Learner, LoopSettings
from sparse_rcnn.precision import autocast
from sparse_rcnn.schedule import WarmupMultiStep

CRITERION = "criterion"


def step_rows(workload: Workload, settings: Sequence[Setting], device: torch.device, num_repeats: int) -> list[Row]:
    """A training step: forward by part, criterion, backward by part, clipping and update."""
    return rows_by_part("step", workload, settings, device, num_repeats, step_side)


def step_side(workload: Workload, config: dict[str, Any], device: torch.device) -> tuple[Side, Work]:
    model: nn.Module = workload.model(config, device).train()
    criterion: Any = build_criterion(config)
    images, sizes_hw = workload.images(model, device)  # type: ignore[arg-type]
    targets, precision = workload.targets(device), config["train"]["precision"]
    share = criterion.counts(targets)
    learner = learner_of(model, criterion, config, device)
    if learner.settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)

    def run(meter: Meter) -> None:
        attribution = Attribution(model, meter)
        with attribution, criterion_parts(attribution, criterion), update_parts(attribution, learner):
            with attribution.part(REST), autocast(precision, device):
                output = model(images, sizes_hw, targets)
            with attribution.part(f"{CRITERION}.losses"):
                total = criterion(output, targets, sizes_hw, share).total
            del output
            attribution.hook_backward(total)
            with attribution.part(f"{BACKWARD}.{REST}"):
                total.backward()
            with attribution.part("update.clip"):
                learner.update()

    def side() -> dict[str, float]:
        clock = Clock(device)
        run(clock)
        return with_total(clock.seconds)

    run(Clock(device))  # the optimizer makes its state in the first step
    work = Work()
    with work:
        run(work)
    return side, work


def learner_of(model: nn.Module, criterion: Any, config: dict[str, Any], device: torch.device) -> Learner:
    """The learner of a configuration, as far as `Learner.update` uses it."""
    settings = LoopSettings(
        num_steps=1,
        num_steps_per_epoch=1,
        num_micro_batches=1,
        clip_norm=config["train"]["clip_norm"],
        precision=config["train"]["precision"],
        channels_last=config["train"]["channels_last"],
        log_every=1,
        eval_every=None,
        checkpoint_every=None,
    )
    schedule = WarmupMultiStep(1, "steps", [], 0.1, 0, 1.0)
    return Learner(model, criterion, build_optimizer(config, model), schedule, None, settings, World(0, 1, device))


@contextmanager
def update_parts(attribution: Attribution, learner: Learner) -> Iterator[None]:
    """The optimizer's step as a part of the update."""
    optimizer = learner.optimizer
    handles = (
        optimizer.register_step_pre_hook(lambda *_: attribution.enter("update.optimizer")),
        optimizer.register_step_post_hook(lambda *_: attribution.leave()),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def criterion_parts(attribution: Attribution, criterion: Any) -> Iterator[None]:
    """The matching of a criterion that has a matcher as parts: cost, copy to the host, assignment, and the rest of it.

    The assignment is scipy's function, wherever the library imported it.
    """
    matcher: Any = getattr(criterion, "matcher", None)
    with ExitStack() as stack:
        if callable(getattr(matcher, "cost", None)):
            for module in [m for name, m in sys.modules.items() if name.startswith("sparse_rcnn.")]:
                if assign := vars(module).get("linear_sum_assignment"):
                    timed = attribution.wrapped(f"{CRITERION}.assignment", assign)
                    stack.enter_context(replaced(module, "linear_sum_assignment", timed))
            cost = attribution.wrapped(f"{CRITERION}.cost", matcher.cost)
            stack.enter_context(replaced(matcher, "cost", cost))
            stack.enter_context(replaced(criterion, "matcher", _Matching(attribution, matcher)))
        yield


class _Matching:
    """A matcher whose calls are a part."""

    def __init__(self, attribution: Attribution, matcher: Any) -> None:
        self._attribution, self._matcher = attribution, matcher

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._attribution.part(f"{CRITERION}.matching"), _Copies(self._attribution):
            return self._matcher(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)


class _Copies(TorchFunctionMode):
    """Copies to the host as a part."""

    def __init__(self, attribution: Attribution) -> None:
        super().__init__()
        self._attribution = attribution

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cpu:
            with self._attribution.part(f"{CRITERION}.copy"):
                return func(*args, **kwargs)
        return func(*args, **kwargs)
