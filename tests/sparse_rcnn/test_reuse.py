"""Stages that reuse object features in other ways, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sparse_rcnn.interaction import AttentionInteraction, DynamicInteraction, FullyConnected
from sparse_rcnn.reuse import Concatenation, NoReuse, SelfAttention
from sparse_rcnn.stage import NoFeedForward, Stage
from tests.support import naive
from tests.support.stages import arrays, draw, make_stage, randomized


def part(module: nn.Module, name: str) -> dict[str, np.ndarray]:
    """The parameters of one child, by the child's own names."""
    return {k.removeprefix(f"{name}."): v for k, v in arrays(module).items() if k.startswith(f"{name}.")}


def fc_stage(reuse: nn.Module) -> Stage:
    fc = FullyConnected(hidden_dim=16, num_fc=2, dim_fc=12, output_size=2, reused_dim=reuse.reused_dim)
    return make_stage(reused_dim=reuse.reused_dim, reuse=reuse, interaction=fc, feed_forward=NoFeedForward())


def test_a_fully_connected_stage_with_concatenation_equals_plain_loops() -> None:
    stage = fc_stage(Concatenation(16))
    randomized(stage)
    features, roi = draw(2, 3, 16), draw(6, 16, 2, 2, seed=2)
    boxes = torch.tensor([10.0, 20, 50, 80], dtype=torch.float64).repeat(2, 3, 1)
    output, object_features = stage(roi, boxes, features, draw(2, 3, 16, seed=9))  # the learned ones are not read
    for n in range(2):
        for i in range(3):
            x = naive.fully_connected(part(stage, "interaction"), roi[3 * n + i].numpy(), 2, features[n, i].tolist())
            np.testing.assert_allclose(object_features[n, i].detach().numpy(), x, rtol=1e-9, atol=1e-11)
            towers = {}
            for tower, num_layers in (("cls_tower", 1), ("reg_tower", 3)):
                p, y = part(stage, tower), x
                for layer in range(num_layers):
                    weight = p[f"{3 * layer}.weight"]
                    y = naive.linear(y, weight, [0.0] * len(weight))  # without bias
                    y = naive.relu(naive.layer_norm(y, p[f"{3 * layer + 1}.weight"], p[f"{3 * layer + 1}.bias"]))
                towers[tower] = naive.linear(y, p[f"{3 * num_layers}.weight"], p[f"{3 * num_layers}.bias"])
            np.testing.assert_allclose(output.logits[n, i].detach().numpy(), towers["cls_tower"], rtol=1e-9, atol=1e-11)
            # Deltas are float32 by design, whatever the precision of the features.
            wanted_box = naive.apply_deltas(towers["reg_tower"], boxes[n, i].tolist())
            np.testing.assert_allclose(output.boxes_xyxy_abs[n, i].detach().numpy(), wanted_box, rtol=1e-4, atol=1e-2)


def test_self_attention_without_interaction_equals_plain_loops() -> None:
    stage = fc_stage(SelfAttention(16, 4, 0.0))
    randomized(stage)
    features, roi = draw(1, 3, 16), draw(3, 16, 2, 2, seed=2)
    _, object_features = stage(roi, torch.ones(1, 3, 4, dtype=torch.float64), features, None)
    attended = naive.self_attention(part(stage, "reuse"), features[0].numpy(), 4)
    for i in range(3):
        x = naive.fully_connected(part(stage, "interaction"), roi[i].numpy(), 2, attended[i].tolist())
        np.testing.assert_allclose(object_features[0, i].detach().numpy(), x, rtol=1e-9, atol=1e-11)


DYNAMIC = DynamicInteraction(hidden_dim=16, dim_dynamic=4, output_size=2, dropout=0.0)


ATTENTION = AttentionInteraction(hidden_dim=16, num_heads=4, dropout=0.0)


@pytest.mark.parametrize("interaction", [DYNAMIC, ATTENTION], ids=["dynamic", "attention"])
def test_without_reuse_a_stage_reads_the_learned_features_and_not_those_before(interaction: nn.Module) -> None:
    stage = make_stage(reused_dim=0, reuse=NoReuse(), interaction=interaction)
    roi, boxes = draw(6, 16, 2, 2, seed=2).float(), torch.tensor([10.0, 20, 50, 80]).repeat(2, 3, 1)
    before, learned = draw(2, 3, 16).float(), draw(2, 3, 16, seed=3).float()
    output, features = stage(roi, boxes, before, learned)
    same, same_features = stage(roi, boxes, -before, learned)
    assert torch.equal(output.logits, same.logits)
    assert torch.equal(features, same_features)
    other, _ = stage(roi, boxes, before, -learned)
    assert not torch.allclose(output.logits, other.logits)


@pytest.mark.parametrize("interaction", [DYNAMIC, ATTENTION], ids=["dynamic", "attention"])
def test_with_concatenation_the_features_before_meet_the_roi_as_they_are(interaction: nn.Module) -> None:
    stage = make_stage(reuse=Concatenation(16), interaction=interaction)
    roi, boxes = draw(6, 16, 2, 2, seed=2).float(), torch.tensor([10.0, 20, 50, 80]).repeat(2, 3, 1)
    before, learned = draw(2, 3, 16).float(), draw(2, 3, 16, seed=3).float()
    _, features = stage(roi, boxes, before, learned)
    wanted = stage.feed_forward(interaction(before, roi.unflatten(0, (2, 3))))
    assert torch.equal(features, wanted)


def test_a_fully_connected_stage_without_reuse_needs_no_features() -> None:
    stage = fc_stage(NoReuse())
    roi, boxes = draw(6, 16, 2, 2, seed=2).float(), torch.tensor([10.0, 20, 50, 80]).repeat(2, 3, 1)
    without, _ = stage(roi, boxes, None, None)
    with_features, _ = stage(roi, boxes, draw(2, 3, 16), draw(2, 3, 16))
    assert torch.equal(without.logits, with_features.logits)
    assert torch.equal(without.boxes_xyxy_abs, with_features.boxes_xyxy_abs)
    assert not stage.reads_proposal_features
    assert fc_stage(Concatenation(16)).reads_proposal_features
    assert make_stage(reused_dim=0, reuse=NoReuse()).reads_proposal_features
