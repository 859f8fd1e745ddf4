"""A row's forward pass and training step, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmark.machine import synchronize
from experiments.benchmark.measure import TOTAL, Side, interleaved
from experiments.benchmark.parts import PartTimer, gflop_by_part
from experiments.benchmark.report import Row
from experiments.config.build import build, build_criterion, build_optimizer, with_num_classes
from experiments.config.rows import compose_row
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.distributed import World
from sparse_rcnn.engine import Learner, LoopSettings
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.precision import autocast
from sparse_rcnn.schedule import WarmupMultiStep
from sparse_rcnn.structures import Targets

NUM_CLASSES = 80
NUM_OBJECTS = 7  # of an image: COCO's mean


@dataclass(frozen=True)
class Setting:
    """A name and the overrides that it stands for."""

    name: str
    overrides: tuple[str, ...] = ()


DEFAULT_SETTINGS = (Setting("float32"), Setting("bfloat16", ("train.precision=bf16",)))


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        recipe, row, overrides: the configuration, to which a setting adds its own overrides.
        size_hw: of the images, unpadded.
        batch_size: images that go through the model at once.
    """

    recipe: str
    row: str
    overrides: tuple[str, ...]
    size_hw: tuple[int, int]
    batch_size: int

    def config(self, setting: Setting) -> dict[str, Any]:
        """The complete configuration under a setting."""
        config = compose_row(self.recipe, self.row, [*self.overrides, *setting.overrides])
        return with_num_classes(config, NUM_CLASSES)

    def model(self, config: dict[str, Any], device: torch.device) -> DetectorModule:
        """The detector with random weights."""
        torch.manual_seed(0)
        model: DetectorModule = build(config, "model")
        layout = torch.channels_last if config["train"]["channels_last"] else torch.contiguous_format
        return model.to(device).to(memory_format=layout)

    def images(self, model: DetectorModule, device: torch.device) -> tuple[Tensor, Tensor]:
        """A padded batch of noise, and its sizes."""
        divisor = model.size_divisor
        height, width = (-(-side // divisor) * divisor for side in self.size_hw)
        images = torch.randint(0, 256, (self.batch_size, 3, height, width), dtype=torch.uint8)
        sizes_hw = torch.tensor([self.size_hw] * self.batch_size)
        return images.to(device), sizes_hw.to(device)

    def targets(self, device: torch.device) -> Targets:
        """Objects of all sizes."""
        generator = torch.Generator().manual_seed(0)
        scale = torch.tensor([self.size_hw[1], self.size_hw[0]])
        corners = torch.rand(self.batch_size, NUM_OBJECTS, 2, generator=generator) * 0.7 * scale
        sides = (0.02 + 0.28 * torch.rand(self.batch_size, NUM_OBJECTS, 2, generator=generator)) * scale
        labels = torch.randint(0, NUM_CLASSES, (self.batch_size, NUM_OBJECTS), generator=generator)
        boxes = torch.cat((corners, corners + sides), 2)
        return Targets.from_lists(list(boxes), list(labels)).to(device)


def model_rows(workload: Workload, settings: Sequence[Setting], device: torch.device, num_repeats: int) -> list[Row]:
    """The forward pass in evaluation, from raw images to the output, by part of the model."""
    return _rows("model", workload, settings, device, num_repeats, _forward_side)


def step_rows(workload: Workload, settings: Sequence[Setting], device: torch.device, num_repeats: int) -> list[Row]:
    """A training step: forward by part, criterion, backward, clipping and update."""
    return _rows("step", workload, settings, device, num_repeats, _step_side)


def _rows(
    name: str,
    workload: Workload,
    settings: Sequence[Setting],
    device: torch.device,
    num_repeats: int,
    make: Callable[..., tuple[Side, dict[str, float]]],
) -> list[Row]:
    sides, gflop, dtypes = {}, {}, {}
    for setting in settings:
        config = workload.config(setting)
        sides[setting.name], gflop[setting.name] = make(workload, config, device)
        dtypes[setting.name] = config["train"]["precision"]
    measured = interleaved(sides, num_repeats)
    return [
        Row(name, setting, part, seconds, gflop[setting].get(part), dtypes[setting])
        for setting, parts in measured.items()
        for part, seconds in parts.items()
    ]


def _forward_side(workload: Workload, config: dict[str, Any], device: torch.device) -> tuple[Side, dict[str, float]]:
    model = workload.model(config, device)
    images, sizes_hw = workload.images(model, device)
    timer, precision = PartTimer(model, device), config["train"]["precision"]

    def run() -> None:
        with eval_mode(model), autocast(precision, device):
            model(images, sizes_hw)

    def side() -> dict[str, float]:
        with timer() as seconds, torch.no_grad():
            synchronize(device)
            started = perf_counter()
            run()
            synchronize(device)
            total = perf_counter() - started
        return _with_rest(dict(seconds), total)

    return side, gflop_by_part(model, run)  # with gradients: without them, attention is a kernel that is not counted


def _step_side(workload: Workload, config: dict[str, Any], device: torch.device) -> tuple[Side, dict[str, float]]:
    model: nn.Module = workload.model(config, device).train()
    criterion: Any = build_criterion(config)
    images, sizes_hw = workload.images(model, device)  # type: ignore[arg-type]
    targets, precision = workload.targets(device), config["train"]["precision"]
    share = criterion.counts(targets)
    settings = LoopSettings(
        num_steps=1,
        num_steps_per_epoch=1,
        num_micro_batches=1,
        clip_norm=config["train"]["clip_norm"],
        precision=precision,
        channels_last=config["train"]["channels_last"],
        log_every=1,
        eval_every=None,
        checkpoint_every=None,
    )
    schedule = WarmupMultiStep(1, "steps", [], 0.1, 0, 1.0)
    world = World(0, 1, device)
    learner = Learner(model, criterion, build_optimizer(config, model), schedule, None, settings, world)
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    timer = PartTimer(model, device)
    if matcher := getattr(criterion, "matcher", None):
        matcher.cost = timer.timed("criterion.cost", matcher.cost)
        criterion.matcher = timer.timed("criterion.matching", matcher)

    def side() -> dict[str, float]:
        with timer() as seconds:
            marks = [_now(device)]
            with autocast(precision, device):
                output = model(images, sizes_hw, targets)
            marks.append(_now(device))
            losses = criterion(output, targets, sizes_hw, share)
            marks.append(_now(device))
        losses.total.backward()
        marks.append(_now(device))
        learner.update()
        marks.append(_now(device))
        forward, loss, backward, update = (b - a for a, b in pairwise(marks))
        parts: dict[str, float] = dict(seconds)
        matching, cost = parts.pop("criterion.matching", 0.0), parts.pop("criterion.cost", 0.0)
        criterion_parts = {"criterion.losses": loss - matching}
        if matching:
            criterion_parts |= {"criterion.cost": cost, "criterion.assignment": matching - cost}
        parts = _with_rest(parts, forward)
        total = parts.pop(TOTAL) + loss + backward + update
        return {**parts, **criterion_parts, "backward": backward, "update": update, TOTAL: total}

    def run() -> None:
        with autocast(precision, device):
            output = model(images, sizes_hw, targets)
        criterion(output, targets, sizes_hw, share).total.backward()
        model.zero_grad()

    counted = gflop_by_part(model, run)
    # The counter adds the backward pass to the parts of the forward one: only the whole is compared with its time.
    return side, {TOTAL: counted[TOTAL]}


def _now(device: torch.device) -> float:
    synchronize(device)
    return perf_counter()


def _with_rest(parts: dict[str, float], total: float) -> dict[str, float]:
    """The parts with what is between them, and their sum."""
    return {**parts, "rest": total - sum(parts.values()), TOTAL: total}
