"""Where the time of a forward pass goes: seconds and FLOPs by part of a model, from outside of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmark.machine import synchronize

DEPTH = 2  # names of a part: backbone.fpn, stages.interaction


def part_name(path: str) -> str:
    """A module's path without the numbers of lists and at most `DEPTH` names long."""
    return ".".join([name for name in path.split(".") if not name.isdigit()][:DEPTH])


def modules_of_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules, none within another, by the name of the part that they belong to; parts of a list share a name."""
    found: list[tuple[str, nn.Module]] = []

    def walk(module: nn.Module, path: list[str]) -> None:
        children = list(module.named_children())
        if len(path) == DEPTH or (path and not children):
            found.append((".".join(path), module))
            return
        if not children and not path:
            return
        for name, child in children:
            walk(child, path if name.isdigit() else [*path, name])

    walk(model, [])
    return found


class PartTimer:
    """Adds up the seconds of the parts of a model while its context is entered; waits for the device around each."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self) -> Iterator[dict[str, float]]:
        self.seconds = defaultdict(float)
        handles: list[Any] = []
        restore: list[tuple[nn.Module, str]] = []
        for name, module in modules_of_parts(self.model):
            started: list[float] = []

            def before(_: Any, __: Any, started: list[float] = started) -> None:
                synchronize(self.device)
                started.append(perf_counter())

            def after(_: Any, __: Any, ___: Any, name: str = name, started: list[float] = started) -> None:
                synchronize(self.device)
                self.seconds[name] += perf_counter() - started.pop()

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            if callable(getattr(module, "prepare", None)):  # of a pooler: its work once an image
                object.__setattr__(module, "prepare", self.timed(f"{name}.prepare", module.prepare))
                restore.append((module, "prepare"))
        try:
            yield self.seconds
        finally:
            for handle in handles:
                handle.remove()
            for module, name in restore:
                object.__delattr__(module, name)

    def timed(self, name: str, function: Any) -> Any:
        """A function that adds its seconds to a part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            synchronize(self.device)
            started = perf_counter()
            result = function(*args, **kwargs)
            synchronize(self.device)
            self.seconds[name] += perf_counter() - started
            return result

        return run


def gflop_by_part(model: nn.Module, run: Any) -> dict[str, float]:
    """FLOPs in 1e9 of matrix products and convolutions of ``run``, by part of the model."""
    names = {path: part_name(path) for path, _ in model.named_modules()}
    kept = {id(module) for _, module in modules_of_parts(model)}
    paths = {f"{type(model).__name__}.{path}": names[path] for path, m in model.named_modules() if id(m) in kept}
    with FlopCounterMode(display=False, depth=16) as counter:
        run()
    gflop: dict[str, float] = defaultdict(float)
    for path, counts in counter.get_flop_counts().items():
        if path in paths:
            gflop[paths[path]] += sum(counts.values()) / 1e9
    gflop["total"] = counter.get_total_flops() / 1e9
    return dict(gflop)
