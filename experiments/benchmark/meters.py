"""Meters that add up by part: seconds on the clock, operations and bytes."""

from __future__ import annotations

from collections import defaultdict
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sparse_rcnn.speed import synchronize

aten = torch.ops.aten
# They neither read nor write values.
FREE = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class Clock:
    """Seconds by part, from one switch to the next; waits for the device at every switch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._part: str | None = None
        self._since = 0.0

    def switch(self, part: str | None) -> None:
        if part == self._part:
            return
        synchronize(self.device)
        now = perf_counter()
        if self._part is not None:
            self.seconds[self._part] += now - self._since
        self._part, self._since = part, now


class Work(TorchDispatchMode):
    """Operations and bytes of what is computed in its context, by part.

    Attributes:
        gflop: floating-point operations of matrix products and convolutions in 1e9, as
            ``torch.utils.flop_counter`` counts them.
        gigabytes: of the tensors that each operation reads and writes, each once, in 1e9; views move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gflop: dict[str, float] = defaultdict(float)
        self.gigabytes: dict[str, float] = defaultdict(float)
        self._part: str | None = None

    def switch(self, part: str | None) -> None:
        """From now on count to ``part``; None: to none."""
        self._part = part

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._part is None:
            return result
        packet = func.overloadpacket
        if packet in flop_registry:
            self.gflop[self._part] += flop_registry[packet](*args, **kwargs, out_val=result) / 1e9
        if not func.is_view and packet not in FREE:
            moved = [*tree_leaves((args, kwargs)), *tree_leaves(result)]
            self.gigabytes[self._part] += sum(_bytes(leaf) for leaf in moved if isinstance(leaf, Tensor)) / 1e9
        return result


def _bytes(tensor: Tensor) -> int:
    """An expanded tensor is as large as its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
