"""The exponential moving average of the weights."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """PyTorch's ``AveragedModel`` with decay ``decay``: the first update copies, later ones average.

    Parameters and buffers are averaged alike. PyTorch's own update copies its counter to the device, which
    waits for the whole step to end; here nothing is copied. Model and average have to be on one device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._average = get_ema_multi_avg_fn(decay)
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averaged = [t.detach() for t in chain(self.module.parameters(), self.module.buffers())]
        current = [t.detach() for t in chain(model.parameters(), model.buffers())]
        if self.n_averaged == 0:  # a CPU tensor
            torch._foreach_copy_(averaged, current)
        else:
            self._average(averaged, current, self.n_averaged)
        self.n_averaged += 1
