from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.deformable_detr.encoder import DeformableEncoder, cell_reference_points


def test_reference_points_against_plain_loops() -> None:
    shapes = [(3, 4), (2, 2)]
    ratios = torch.tensor([[[0.75, 1.0], [0.5, 1.0]], [[1.0, 2 / 3], [1.0, 0.5]]])
    wanted = []
    for n in range(2):
        cells = []
        for level, (h, w) in enumerate(shapes):
            for i in range(h):
                for j in range(w):
                    x = (j + 0.5) / (ratios[n, level, 0].item() * w)
                    y = (i + 0.5) / (ratios[n, level, 1].item() * h)
                    cells.append([[x * ratios[n, t, 0].item(), y * ratios[n, t, 1].item()] for t in range(2)])
        wanted.append(cells)
    torch.testing.assert_close(cell_reference_points(shapes, ratios), torch.tensor(wanted))


def encoder(num_layers: int = 3) -> DeformableEncoder:
    return DeformableEncoder(
        num_layers=num_layers,
        hidden_dim=32,
        num_heads=4,
        num_levels=2,
        num_points=2,
        dim_feedforward=48,
        dropout=0.0,
    )


def test_start() -> None:
    first, second, _ = encoder().layers
    for name, one in first.named_parameters():
        other = dict(second.named_parameters())[name]
        if one.dim() == 1:  # the default biases of linear layers too
            assert torch.equal(one, other), name
        elif "sampling_offsets" in name or "attention_weights" in name:
            assert not one.any()
        else:
            bound = math.sqrt(6 / sum(one.shape))
            assert 0.95 * bound < one.abs().max() <= bound, name
            assert not torch.equal(one, other), name


def test_no_layers_change_nothing() -> None:
    x = torch.randn(1, 16, 32)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    assert torch.equal(encoder(0)(x, x, mask, [(3, 4), (2, 2)], torch.ones(1, 2, 2)), x)


def test_rejected() -> None:
    with pytest.raises(ValueError, match="num_layers must not be negative, got -1"):
        encoder(-1)
