"""A row's forward pass in evaluation, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from experiments.benchmark.measure import TOTAL, Side, interleaved
from experiments.benchmark.meters import Clock, Work
from experiments.benchmark.parts import BACKWARD, REST, Attribution
from experiments.benchmark.report import Row
from experiments.benchmark.workload import Setting, Workload
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.precision import autocast

PHASES = ("criterion", BACKWARD, "update")  # behind the forward pass


def model_rows(workload: Workload, settings: Sequence[Setting], device: torch.device, num_repeats: int) -> list[Row]:
    """The forward pass in evaluation, from raw images to the output, by part of the model."""
    return rows_by_part("model", workload, settings, device, num_repeats, forward_side)


def rows_by_part(
    name: str,
    workload: Workload,
    settings: Sequence[Setting],
    device: torch.device,
    num_repeats: int,
    make: Callable[[Workload, dict[str, Any], torch.device], tuple[Side, Work]],
) -> list[Row]:
    """Interleaved passes of each setting.

    Args:
        name: of the benchmark.
        make: from the workload, a complete configuration and the device to a timed pass and the work of one.
    """
    sides, work, dtypes = {}, {}, {}
    for setting in settings:
        config = workload.config(setting)
        sides[setting.name], work[setting.name] = make(workload, config, device)
        dtypes[setting.name] = config["train"]["precision"]
    measured = interleaved(sides, num_repeats)
    rows = []
    for setting_name, parts in measured.items():
        gflop, gigabytes = work[setting_name].gflop, work[setting_name].gigabytes
        for whole in (gflop, gigabytes):
            whole[TOTAL] = sum(whole.values())
        for part, seconds in parts.items():
            numbers = gflop.get(part), gigabytes.get(part)
            rows.append(Row(name, setting_name, part, seconds, numbers[0], dtypes[setting_name], numbers[1]))
    return rows


def forward_side(workload: Workload, config: dict[str, Any], device: torch.device) -> tuple[Side, Work]:
    model = workload.model(config, device)
    images, sizes_hw = workload.images(model, device)
    precision = config["train"]["precision"]

    def run(attribution: Attribution, context: AbstractContextManager[Any]) -> None:
        with eval_mode(model), context, autocast(precision, device), attribution, attribution.part(REST):
            model(images, sizes_hw)

    def side() -> dict[str, float]:
        clock = Clock(device)
        run(Attribution(model, clock), torch.no_grad())
        return with_total(clock.seconds)

    work = Work()
    with work:  # with gradients: without them, attention is a kernel that is not counted
        run(Attribution(model, work), nullcontext())
    return side, work


def with_total(seconds: dict[str, float]) -> dict[str, float]:
    """The parts in the order of a step, each phase with its rest at its end, and their sum."""

    def place(part: str) -> tuple[int, bool]:
        first, _, name = part.partition(".")
        phase = PHASES.index(first) + 1 if first in PHASES and name else 0
        return phase, part in (REST, f"{BACKWARD}.{REST}")

    return {**{part: seconds[part] for part in sorted(seconds, key=place)}, TOTAL: sum(seconds.values())}
