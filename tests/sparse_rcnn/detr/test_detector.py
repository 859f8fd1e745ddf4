"""DETR as a whole: shapes, padding, options, and a few steps of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparse_rcnn.architecture import build
from sparse_rcnn.errors import CheckpointError
from tests.support.detectors import images_of, random_targets
from tests.support.detr import detr_architecture, detr_criterion, resnet, small_detr


def test_one_output_per_decoder_layer() -> None:
    model = small_detr(num_layers=3)
    images, sizes = images_of([(70, 50), (60, 90)])
    outputs = model(images, sizes)
    assert len(outputs) == 3
    for output in outputs:
        assert output.logits.shape == (2, 6, 5)
        assert output.boxes_cxcywh_norm.shape == (2, 6, 4)
        assert ((output.boxes_cxcywh_norm > 0) & (output.boxes_cxcywh_norm < 1)).all()


def test_boxes_in_pixels_are_those_of_each_image() -> None:
    model = small_detr()
    images, sizes = images_of([(70, 50), (60, 90)])
    output = model(images, sizes)[-1]
    cx, cy, w, h = output.boxes_cxcywh_norm[1, 2].tolist()
    wanted = [(cx - w / 2) * 90, (cy - h / 2) * 60, (cx + w / 2) * 90, (cy + h / 2) * 60]
    assert output.boxes_xyxy_abs(sizes)[1, 2].tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_normalised_inside_and_padding_is_zero(dtype: torch.dtype) -> None:
    model = small_detr()
    images = torch.full((1, 3, 64, 64), 255).to(dtype)
    got = model.normalize(images, torch.tensor([[40, 30]]))
    wanted = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(got[0, :, 0, 0], wanted)
    assert (got[0, :, :40, :30] != 0).all()
    assert (got[0, :, 40:] == 0).all()
    assert (got[0, :, :, 30:] == 0).all()


def test_what_is_in_the_padding_changes_nothing() -> None:
    model = small_detr().eval()
    images, sizes = images_of([(70, 50), (60, 90)])
    other = images.clone()
    other[0, :, 70:], other[1, :, :, 90:] = 200, 77
    for a, b in zip(model(images, sizes), model(other, sizes), strict=True):
        assert torch.equal(a.logits, b.logits)
        assert torch.equal(a.boxes_cxcywh_norm, b.boxes_cxcywh_norm)


def test_images_of_one_size_do_not_see_each_other() -> None:
    model = small_detr().eval()
    images, sizes = images_of([(64, 96)] * 3)
    together = model(images, sizes)[-1]
    for n in range(3):
        alone = model(images[n : n + 1], sizes[n : n + 1])[-1]
        torch.testing.assert_close(together.logits[n : n + 1], alone.logits, rtol=1e-4, atol=1e-5)


def test_without_position_cells_may_be_exchanged() -> None:
    # The encoder sees a set of cells, whose order is lost: a mirrored map gives the same, and with positions another.
    for with_position in (True, False):
        model = small_detr(with_position=with_position).eval()
        images, sizes = images_of([(64, 64)])
        straight = model(images, sizes)[-1].logits
        backbone = model.backbone.forward
        model.backbone.forward = lambda x, backbone=backbone: backbone(x).flip(-1)  # type: ignore[method-assign]
        assert torch.allclose(straight, model(images, sizes)[-1].logits, atol=1e-5) == (not with_position)


def test_the_queries_are_the_input_of_a_decoder_without_position() -> None:
    # Otherwise the input is zeros, whose self-attention in the first layer is one vector for all queries: its queries
    # and keys get no gradient.
    for with_position in (True, False):
        model = small_detr(with_position=with_position, num_layers=1)
        images, sizes = images_of([(64, 64)])
        model(images, sizes)[-1].logits.square().sum().backward()
        attention: Any = model.transformer.decoder.layers[0].self_attn
        gradient = attention.in_proj_weight.grad[: 2 * model.transformer.hidden_dim].abs().max().item()
        assert (gradient < 1e-6) == with_position
        assert model.query_embed.weight.grad is not None
        assert model.query_embed.weight.grad.abs().max() > 1e-6


def test_without_position_the_queries_are_added_once() -> None:
    # In no decoder layer do they appear a second time: a model with zeros for queries, which starts its decoder from
    # the same features, goes the same way.
    model = small_detr(with_position=False)
    images, sizes = images_of([(64, 48)])
    wanted = model(images, sizes)
    queries = model.query_embed.weight.detach().clone()
    with torch.no_grad():
        model.query_embed.weight.zero_()
    first: Any = model.transformer.decoder.layers[0]
    first.register_forward_pre_hook(lambda module, inputs: (inputs[0] + queries, *inputs[1:]))
    for a, b in zip(model(images, sizes), wanted, strict=True):
        torch.testing.assert_close(a.logits, b.logits)


def test_more_padding_changes_predictions() -> None:
    # The property that the batch has to respect: the largest sizes of the batch, and no multiple of 32.
    model = small_detr(bottom_up=resnet(18)).eval()
    images, sizes = images_of([(70, 50)], seed=1)
    assert images.shape[-2:] == (96, 64)
    tight = model(images[..., :70, :50], sizes)[-1]
    assert not torch.allclose(tight.logits, model(images, sizes)[-1].logits, atol=1e-4)


def test_initial_queries_and_heads() -> None:
    model = small_detr(num_queries=400, hidden_dim=64, num_classes=80)
    queries = model.query_embed.weight
    assert queries.mean().item() == pytest.approx(0, abs=0.03)
    assert queries.std().item() == pytest.approx(1, abs=0.03)
    assert model.class_embed.weight.abs().max().item() <= 1 / 8  # PyTorch's bound, 1 / sqrt(C)
    assert model.class_embed.bias.abs().max().item() <= 1 / 8, "no prior"
    assert model.input_proj.bias is not None


@pytest.mark.parametrize(
    "changes", [{}, {"with_position": False}, {"norm_first": True}, {"dropout": 0.1}, {"bottom_up": resnet(18)}]
)
def test_every_trainable_parameter_gets_a_gradient(changes: dict[str, Any]) -> None:
    model = small_detr(**changes).train()
    images, sizes = images_of([(70, 50), (60, 90)])
    targets = random_targets([2, 0], sizes, 4)
    criterion = detr_criterion()
    criterion(model(images, sizes, targets), targets, sizes, criterion.counts(targets)).total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("counts", [[0, 0], [9, 1]])  # no boxes, and more than queries
def test_a_few_steps_lower_the_loss(counts: list[int]) -> None:
    model = small_detr()
    images, sizes = images_of([(64, 48), (48, 64)])
    targets = random_targets(counts, sizes, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion, losses = detr_criterion(), []
    for _ in range(8):
        optimizer.zero_grad()
        total = criterion(model(images, sizes), targets, sizes, criterion.counts(targets)).total
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.9 * losses[0]


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    images, sizes = images_of([(64, 48)])
    gradients = []
    for recompute in (False, True):
        model = small_detr()
        model.activation_checkpointing = recompute
        model(images, sizes)[-1].logits.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_boxes_are_float32_under_autocast() -> None:
    model = small_detr()
    images, sizes = images_of([(64, 48)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, sizes)[-1]
    assert output.boxes_cxcywh_norm.dtype == torch.float32
    exact = model(images, sizes)[-1]
    torch.testing.assert_close(output.boxes_cxcywh_norm, exact.boxes_cxcywh_norm, rtol=0, atol=0.05)


@pytest.mark.parametrize(("depth", "dilation", "giga_macs"), [(50, False, 86), (50, True, 187), (101, False, 152)])
def test_cost_is_the_papers(depth: int, dilation: bool, giga_macs: float) -> None:
    # Table 1 of arXiv 2005.12872 counts multiply-adds of images of the validation set.
    with torch.device("meta"):
        model = small_detr(
            num_classes=91,
            num_queries=100,
            hidden_dim=256,
            num_heads=8,
            num_layers=6,
            dim_feedforward=2048,
            dilation=dilation,
            bottom_up=resnet(depth),
        )
        images, sizes = torch.empty(1, 3, 800, 1120), torch.empty(1, 2, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(images, sizes)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=0.05)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(41 if depth == 50 else 60, abs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
        ({"dilation": True, "bottom_up": resnet(18)}, "dilation needs a bottom_up with bottleneck blocks"),
        ({"level": 2}, "level must be one of 3, 4, 5, got 2"),
    ],
)
def test_rejected_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        small_detr(**changes)


def test_encoding_and_transformer_have_one_width() -> None:
    node = detr_architecture()
    node["position_encoding"]["hidden_dim"] = 32
    with pytest.raises(CheckpointError, match="position_encoding has hidden_dim 32, transformer has 16"):
        build(node)
