"""The parts of a model by the names of its modules, and which of them runs at the moment, seen from outside."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from experiments.benchmark.replacing import replaced

DEPTH = 2  # names of a part: backbone.fpn, stages.interaction
REST, BACKWARD = "rest", "backward"


class Meter(Protocol):
    """Adds up something, such as seconds, to the part that runs."""

    def switch(self, part: str | None) -> None:
        """From now on count to ``part``; None: to none."""


def modules_of_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules, none within another, by the name of the part that they belong to; parts of a list share a name."""
    found: list[tuple[str, nn.Module]] = []

    def walk(module: nn.Module, path: list[str]) -> None:
        children = list(module.named_children())
        if len(path) == DEPTH or (path and not children):
            found.append((".".join(path), module))
            return
        for name, child in children:
            walk(child, path if name.isdigit() else [*path, name])

    walk(model, [])
    return found


class Attribution:
    """Switches a meter to the part of a model that runs, while its context is entered.

    Forward, the hooks of modules do it. Backward, those of the nodes of the graph: a node belongs to the part that ran
    when its number was drawn, and adding up a gradient to the node that it came from. Parts within parts count for
    themselves alone, so that the sum over all parts is the whole.
    """

    def __init__(self, model: nn.Module, meter: Meter) -> None:
        self.meter = meter
        self._modules = modules_of_parts(model)
        self._stack: list[str | None] = [None]
        self._marks: list[tuple[int, str]] = []  # from which number of a node on, they are of which part
        self._opened = ExitStack()

    def __enter__(self) -> Attribution:
        self._marks.clear()
        with ExitStack() as stack:
            for name, module in self._modules:
                for handle in (
                    module.register_forward_pre_hook(partial(self._begun, name)),
                    module.register_forward_hook(self._done),
                ):
                    stack.callback(handle.remove)
                if callable(getattr(module, "prepare", None)):  # of a pooler: its work once an image
                    prepared = self.wrapped(f"{name}.prepare", module.prepare)  # type: ignore[arg-type]
                    stack.enter_context(replaced(module, "prepare", prepared))
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        self._stack = [None]
        self.meter.switch(None)

    def enter(self, part: str | None) -> None:
        """A part begins within the one that runs; None for what is not to be counted."""
        self._stack.append(part)
        self._switch()

    def leave(self) -> None:
        """It is done."""
        self._stack.pop()
        self._switch()

    @contextmanager
    def part(self, name: str | None) -> Iterator[None]:
        """Count what the block does to a part."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return run

    def hook_backward(self, loss: Tensor) -> None:
        """Attribute the backward pass of a loss that was computed in this context, as ``backward.PART``."""
        starts = [number for number, _ in self._marks]
        running = None
        # The engine takes the youngest node whose gradient is complete, and a gradient comes from younger nodes alone:
        # the order is that of falling numbers, and a hook is needed only where the part changes.
        for node in sorted(_nodes(loss), key=lambda node: -node._sequence_nr()):
            place = bisect_right(starts, node._sequence_nr()) - 1
            part = f"{BACKWARD}.{self._marks[place][1] if place >= 0 else REST}"
            if part != running:
                node.register_prehook(partial(self._node, part))
            running = part

    def _switch(self) -> None:
        part = self._stack[-1]
        self._marks.append((torch._C._autograd._get_sequence_nr(), REST if part is None else part))
        self.meter.switch(part)

    def _begun(self, name: str, *_: Any) -> None:
        self.enter(name)

    def _done(self, *_: Any) -> None:
        self.leave()

    def _node(self, name: str, _: Any) -> None:
        self.meter.switch(name)


def _nodes(loss: Tensor) -> set[Any]:
    """The nodes of the graph of a loss but for those that add up the gradient of a leaf, which have no number."""
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or hasattr(node, "variable"):
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return seen
