from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.deformable_detr.decoder import DeformableDecoder


def decoder(num_layers: int = 2) -> DeformableDecoder:
    return DeformableDecoder(
        num_layers=num_layers,
        hidden_dim=32,
        num_heads=4,
        num_levels=2,
        num_points=2,
        dim_feedforward=48,
        dropout=0.0,
    )


def test_start() -> None:
    first, second = decoder().layers
    for name, one in first.named_parameters():
        other = dict(second.named_parameters())[name]
        if one.dim() == 1:
            assert torch.equal(one, other), name
        elif "sampling_offsets" in name or "attention_weights" in name:
            assert not one.any()
        else:  # the packed projection of the self-attention counts as one matrix
            bound = math.sqrt(6 / sum(one.shape))
            assert 0.95 * bound < one.abs().max() <= bound, name
            assert not torch.equal(one, other), name
        if name.startswith("self_attention") and name.endswith("bias"):
            assert not one.any()


def test_the_order_of_queries_is_free() -> None:
    torch.manual_seed(0)
    module = decoder()
    x, position = torch.randn(1, 4, 32), torch.randn(1, 4, 32)
    reference = torch.rand(1, 4, 1, 2).expand(-1, -1, 2, -1)
    memory, mask, shapes = torch.randn(1, 16, 32), torch.zeros(1, 16, dtype=torch.bool), [(3, 4), (2, 2)]
    order = torch.tensor([2, 0, 3, 1])
    straight = module(x, position, reference, memory, mask, shapes)
    mixed = module(x[:, order], position[:, order], reference[:, order], memory, mask, shapes)
    assert len(straight) == 2
    for one, other in zip(straight, mixed, strict=True):
        torch.testing.assert_close(one[:, order], other)


def test_rejected() -> None:
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        decoder(0)
