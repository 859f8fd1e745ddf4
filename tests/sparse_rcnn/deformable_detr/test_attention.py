from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.deformable_detr.attention import MultiScaleDeformableAttention, sample_levels
from tests.support.deformable_detr import naive_sample_levels
from tests.support.stages import draw, randomized

SHAPES = [(3, 4), (2, 1)]
NUM_CELLS = 14


def sampled(seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations in and around the maps, and weights: 2 images, 3 queries, 2 heads of width 3, 2 points."""
    values = draw(2, NUM_CELLS, 2, 3, seed=seed)
    locations = 0.5 + 0.5 * draw(2, 3, 2, 2, 2, 2, seed=seed + 1)
    return values, locations, draw(2, 3, 2, 2, 2, seed=seed + 2)


def test_sampling_against_plain_loops_both_ways() -> None:
    inputs = [t.requires_grad_() for t in sampled()]
    assert ((inputs[1] < 0) | (inputs[1] > 1)).any()
    got = sample_levels(inputs[0], SHAPES, inputs[1], inputs[2])
    wanted = naive_sample_levels(inputs[0], SHAPES, inputs[1], inputs[2])
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    upstream = draw(*got.shape, seed=9)
    for a, b in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_sampling_in_float32() -> None:
    values, locations, weights = (t.float() for t in sampled())
    wanted = naive_sample_levels(values.double(), SHAPES, locations.double(), weights.double())
    torch.testing.assert_close(sample_levels(values, SHAPES, locations, weights).double(), wanted, rtol=0, atol=1e-5)


def attention() -> MultiScaleDeformableAttention:
    module = randomized(MultiScaleDeformableAttention(hidden_dim=6, num_heads=2, num_levels=2, num_points=2))
    assert isinstance(module, MultiScaleDeformableAttention)
    return module


def naive_attention(
    module: MultiScaleDeformableAttention, queries: Tensor, reference: Tensor, values: Tensor, padding: Tensor
) -> Tensor:
    """The module with its points, weights and projected values made one by one."""
    projected = torch.stack(
        [
            torch.stack([module.value_proj(cell) * (0.0 if out else 1.0) for cell, out in zip(c, p, strict=True)])
            for c, p in zip(values, padding.tolist(), strict=True)
        ]
    ).view(*values.shape[:2], 2, 3)
    images = []
    for n in range(len(queries)):
        rows = []
        for q in range(queries.shape[1]):
            offsets = module.sampling_offsets(queries[n, q])
            logits = module.attention_weights(queries[n, q])
            locations, weights = [], []
            for m in range(2):
                exponents = logits[m * 4 : m * 4 + 4].exp()
                for level, (h, w) in enumerate(SHAPES):
                    for p in range(2):
                        at = ((m * 2 + level) * 2 + p) * 2
                        move = offsets[at : at + 2] / torch.tensor([w, h], dtype=torch.float64)
                        locations.append(reference[n, q, level] + move)
                        weights.append(exponents[level * 2 + p] / exponents.sum())
            rows.append((torch.stack(locations).view(2, 2, 2, 2), torch.stack(weights).view(2, 2, 2)))
        where, weight = (torch.stack(parts)[None] for parts in zip(*rows, strict=True))
        images.append(naive_sample_levels(projected[n : n + 1], SHAPES, where, weight))
    return module.output_proj(torch.cat(images))


def test_module_against_plain_loops_both_ways() -> None:
    module = attention()
    queries, values = draw(2, 3, 6, seed=4).requires_grad_(), draw(2, NUM_CELLS, 6, seed=5).requires_grad_()
    reference = draw(2, 3, 2, 2, seed=6).sigmoid().requires_grad_()
    padding = torch.zeros(2, NUM_CELLS, dtype=torch.bool)
    padding[1, [3, 7, 11, 13]] = True
    got = module(queries, reference, values, padding, SHAPES)
    wanted = naive_attention(module, queries, reference, values, padding)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    inputs = [queries, reference, values, *module.parameters()]
    upstream = draw(*got.shape, seed=9)
    for a, b in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_the_content_of_padding_changes_nothing() -> None:
    module = attention()
    queries, values, reference = draw(1, 3, 6), draw(1, NUM_CELLS, 6, seed=5), draw(1, 3, 2, 2, seed=6).sigmoid()
    padding = torch.zeros(1, NUM_CELLS, dtype=torch.bool)
    padding[0, 5:9] = True
    before = module(queries, reference, values, padding, SHAPES)
    values[0, 5:9] = 1000
    assert torch.equal(module(queries, reference, values, padding, SHAPES), before)


def test_start() -> None:
    module = MultiScaleDeformableAttention(hidden_dim=16, num_heads=8, num_levels=2, num_points=3)
    assert not module.sampling_offsets.weight.any()
    offsets = module.sampling_offsets.bias.view(8, 2, 3, 2)
    diagonal = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for m, direction in enumerate(diagonal):
        for p in range(3):
            wanted = torch.tensor(direction, dtype=torch.float32) * (p + 1)
            torch.testing.assert_close(offsets[m, :, p], wanted.expand(2, 2), rtol=0, atol=1e-5)
    assert not module.attention_weights.weight.any()
    assert not module.attention_weights.bias.any()
    for projection in (module.value_proj, module.output_proj):
        assert 0.9 * math.sqrt(6 / 32) < projection.weight.abs().max() <= math.sqrt(6 / 32)
        assert not projection.bias.any()


def test_locations_keep_float32_under_bf16() -> None:
    # In bfloat16 the centre of cell 700 of 1000 is rounded into another cell.
    module = MultiScaleDeformableAttention(hidden_dim=4, num_heads=1, num_levels=1, num_points=1)
    with torch.no_grad():
        module.sampling_offsets.bias.zero_()
        module.value_proj.weight.copy_(torch.eye(4))
        module.output_proj.weight.copy_(torch.eye(4))
    values = torch.zeros(1, 1000, 4)
    values[0, 700] = 1
    reference = torch.tensor([700.5 / 1000, 0.5]).view(1, 1, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(torch.zeros(1, 1, 4), reference, values, torch.zeros(1, 1000, dtype=torch.bool), [(1, 1000)])
    torch.testing.assert_close(got.float(), torch.ones(1, 1, 4), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "hidden_dim 16 is not a multiple of num_heads 5"),
        ({"num_levels": 0}, "num_levels and num_points must be at least 1, got 0 and 2"),
        ({"num_points": 0}, "num_levels and num_points must be at least 1, got 2 and 0"),
    ],
)
def test_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleDeformableAttention(
            **({"hidden_dim": 16, "num_heads": 4, "num_levels": 2, "num_points": 2} | changes)
        )
