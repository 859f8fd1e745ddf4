"""The parts of one stage: interaction and self-attention against plain Python loops, and what they refuse."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from sparse_rcnn.interaction import DynamicInteraction
from sparse_rcnn.reuse import SelfAttention
from sparse_rcnn.stage import FeedForward
from tests.support import naive
from tests.support.stages import arrays, draw, make_stage, randomized


def test_dynamic_interaction_equals_plain_loops() -> None:
    module = randomized(DynamicInteraction(hidden_dim=6, dim_dynamic=3, output_size=2, dropout=0.0))
    features, roi = draw(2, 3, 6), draw(2, 3, 6, 2, 2, seed=2)
    got = module(features, roi)
    assert got.shape == (2, 3, 6)
    for n in range(2):
        for p in range(3):
            wanted = naive.dynamic_interaction(arrays(module), features[n, p].tolist(), roi[n, p].numpy(), width=3)
            np.testing.assert_allclose(got[n, p].detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_dynamic_interaction_gradient() -> None:
    module = randomized(DynamicInteraction(hidden_dim=4, dim_dynamic=2, output_size=2, dropout=0.0))
    features, roi = draw(1, 2, 4).requires_grad_(), draw(1, 2, 4, 2, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(module, (features, roi))

    def of_parameters(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(arrays(module), values, strict=True))
        result: torch.Tensor = torch.func.functional_call(module, named, (features.detach(), roi.detach()))
        return result

    assert torch.autograd.gradcheck(of_parameters, tuple(module.parameters()))


def test_self_attention_equals_plain_loops_and_keeps_images_apart() -> None:
    module = randomized(SelfAttention(hidden_dim=8, num_heads=2, dropout=0.0))
    features = draw(2, 5, 8)
    got = module(features).detach().numpy()
    for n in range(2):
        wanted = naive.self_attention(arrays(module), features[n].numpy(), num_heads=2)
        np.testing.assert_allclose(got[n], wanted, rtol=1e-10, atol=1e-12)


def test_a_stage_is_the_sum_of_its_parts() -> None:
    stage = make_stage()
    randomized(stage)
    features, roi = draw(2, 3, 16), draw(6, 16, 2, 2, seed=2)
    boxes = torch.tensor([10.0, 20, 50, 80], dtype=torch.float64).repeat(2, 3, 1)
    output, object_features = stage(roi, boxes, features, None)
    p = arrays(stage)
    for n in range(2):
        attended = naive.self_attention(
            {k.removeprefix("reuse."): v for k, v in p.items() if k.startswith("reuse.")},
            features[n].numpy(),
            4,
        )
        for i in range(3):
            x = naive.dynamic_interaction(
                {k.removeprefix("interaction."): v for k, v in p.items() if k.startswith("interaction.")},
                attended[i].tolist(),
                roi[3 * n + i].numpy(),
                width=4,
            )
            hidden = naive.relu(naive.linear(x, p["feed_forward.linear1.weight"], p["feed_forward.linear1.bias"]))
            out = naive.linear(hidden, p["feed_forward.linear2.weight"], p["feed_forward.linear2.bias"])
            x = naive.layer_norm(
                [a + b for a, b in zip(x, out, strict=True)],
                p["feed_forward.norm.weight"],
                p["feed_forward.norm.bias"],
            )
            np.testing.assert_allclose(object_features[n, i].detach().numpy(), x, rtol=1e-9, atol=1e-11)
            towers = {}
            for tower, num_layers in (("cls_tower", 1), ("reg_tower", 3)):
                y = x
                for layer in range(num_layers):
                    weight = p[f"{tower}.{3 * layer}.weight"]
                    y = naive.linear(y, weight, [0.0] * len(weight))  # without bias
                    norm = f"{tower}.{3 * layer + 1}"
                    y = naive.relu(naive.layer_norm(y, p[f"{norm}.weight"], p[f"{norm}.bias"]))
                last = f"{tower}.{3 * num_layers}"
                towers[tower] = naive.linear(y, p[f"{last}.weight"], p[f"{last}.bias"])
            np.testing.assert_allclose(output.logits[n, i].detach().numpy(), towers["cls_tower"], rtol=1e-9, atol=1e-11)
            # Deltas are float32 by design, whatever the precision of the features.
            wanted_box = naive.apply_deltas(towers["reg_tower"], boxes[n, i].tolist())
            np.testing.assert_allclose(output.boxes_xyxy_abs[n, i].detach().numpy(), wanted_box, rtol=1e-4, atol=1e-2)


def test_proposals_are_a_set_permuting_them_permutes_the_outputs() -> None:
    stage = make_stage()
    features, roi = draw(2, 5, 16).float(), draw(10, 16, 2, 2, seed=2).float()
    boxes = torch.tensor([10.0, 20, 50, 80]) + 10 * torch.rand(2, 5, 4)
    order = torch.tensor([3, 0, 4, 2, 1])
    output, object_features = stage(roi, boxes, features, None)
    moved_roi = roi.view(2, 5, 16, 2, 2)[:, order].flatten(0, 1)
    moved, moved_features = stage(moved_roi, boxes[:, order], features[:, order], None)
    torch.testing.assert_close(moved.logits, output.logits[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.boxes_xyxy_abs, output.boxes_xyxy_abs[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved_features, object_features[:, order], rtol=1e-4, atol=1e-5)


def test_initial_values() -> None:
    torch.manual_seed(0)
    stage = make_stage()
    before = copy.deepcopy(stage)
    stage.reset_parameters()
    fresh = dict(stage.named_parameters())
    for name, old in before.named_parameters():
        new = fresh[name]
        if new.dim() > 1:
            fan_out, fan_in = new.shape  # the packed 3C x C attention projection counts as one matrix
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert new.abs().max() <= bound, name
            assert new.abs().max() > 0.8 * bound, name
            assert not torch.equal(new, old), name
        elif name == "cls_tower.3.bias":
            torch.testing.assert_close(new, torch.full((3,), -math.log(99)))
        else:
            assert torch.equal(new, old), name
        if "norm" in name:
            assert (new == float(name.endswith("weight"))).all(), name
    assert tuple(fresh["reuse.attention.in_proj_weight"].shape) == (48, 16)
    assert (fresh["reuse.attention.in_proj_bias"] == 0).all()
    assert (fresh["reuse.attention.out_proj.bias"] == 0).all()
    linear = fresh["feed_forward.linear1.bias"]  # PyTorch's default: uniform within 1 / sqrt(fan_in)
    assert 0 < linear.abs().max() <= 1 / math.sqrt(16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfAttention(12, 8, 0.0), "hidden_dim 12 is not a multiple of num_heads 8"),
        (lambda: make_stage(num_classes=0), "num_classes must be at least 1, got 0"),
        (
            lambda: FeedForward(16, 32, 1.0),
            r"dropout must be within 0 \(included\) and 1 \(excluded\), got 1.0",
        ),
        (lambda: FeedForward(16, 32, -0.1), "got -0.1"),
        (lambda: FeedForward(16, 0, 0.0), "dim_feedforward must be at least 1, got 0"),
        (lambda: make_stage(num_reg_layers=-1), "must not be negative, got 1 and -1"),
        (
            lambda: DynamicInteraction(16, 0, 7, 0.0),
            "dim_dynamic and output_size must be at least 1, got 0 and 7",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
