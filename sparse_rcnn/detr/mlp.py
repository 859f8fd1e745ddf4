"""The head of boxes."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, of every hidden layer and of the output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(num_in, num_out) for num_in, num_out in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., first width) to (..., last width)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        output: Tensor = last(x)
        return output
