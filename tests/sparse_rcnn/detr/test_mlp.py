"""The head of boxes."""

from __future__ import annotations

import torch

from sparse_rcnn.detr.mlp import MLP


def test_relu_between_the_layers_and_none_after_the_last() -> None:
    mlp = MLP(1, 2, 2, 1)
    with torch.no_grad():
        for layer, (weight, bias) in zip(
            mlp.layers,
            [([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 0.0], [0.0, 1.0]], [-1.0, -1.0]), ([[-2.0, -3.0]], [0.5])],
            strict=True,
        ):
            layer.weight.copy_(torch.tensor(weight))  # type: ignore[operator, union-attr]
            layer.bias.copy_(torch.tensor(bias))  # type: ignore[operator, union-attr]
    # |x| - 1 where positive, on either side; then -2 of it for positive x, -3 for negative x, + 0.5.
    got = mlp(torch.tensor([[3.0], [-3.0], [0.5]]))
    assert got.flatten().tolist() == [-3.5, -5.5, 0.5]


def test_names_and_widths() -> None:
    shapes = {name: tuple(p.shape) for name, p in MLP(8, 6, 4).named_parameters()}
    assert shapes == {
        "layers.0.weight": (6, 8),
        "layers.0.bias": (6,),
        "layers.1.weight": (4, 6),
        "layers.1.bias": (4,),
    }
