from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.architecture import build
from sparse_rcnn.deformable_detr.detector import DeformableDETR
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.query_boxes import QueryBoxes
from sparse_rcnn.structures import Targets
from tests.support.deformable_detr import deformable_architecture, deformable_criterion, small_deformable_detr
from tests.support.detectors import images_of, random_targets

SIZES = [(50, 72), (64, 40)]


def batch(sizes: list[tuple[int, int]] | None = None) -> tuple[Tensor, Tensor]:
    return images_of(sizes or SIZES, side=72)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_outputs_of_every_layer() -> None:
    model = small_deformable_detr(num_layers=3)
    images, sizes = batch()
    outputs = model(images, sizes, random_targets([1, 2], sizes, 4))
    assert len(outputs) == 3
    for output in outputs:
        assert output.logits.shape == (2, 6, 4)
        assert output.boxes_cxcywh_norm.shape == (2, 6, 4)
        assert ((output.boxes_cxcywh_norm > 0) & (output.boxes_cxcywh_norm < 1)).all()


def test_the_layers_share_the_heads_and_the_reference_points() -> None:
    # At the start a box's centre is its reference point, whatever the layer.
    model = small_deformable_detr(drawn=False)
    outputs = model(*batch())
    points = model.query_reference_points()
    for output in outputs:
        torch.testing.assert_close(output.boxes_cxcywh_norm[..., :2], points.expand(2, -1, -1), rtol=0, atol=2e-5)
    assert len({name for name, _ in model.named_parameters() if name.startswith("class_embed")}) == 2


def test_start_of_queries_levels_and_reference_points() -> None:
    model = small_deformable_detr(drawn=False, num_queries=50)
    for table in (model.query_embed.weight, model.level_embed):
        assert table.mean().item() == pytest.approx(0, abs=0.3)
        assert table.std().item() == pytest.approx(1, abs=0.3)
    assert not model.reference_points.bias.any()
    assert 0.9 * (6 / 34) ** 0.5 < model.reference_points.weight.abs().max() <= (6 / 34) ** 0.5


def test_every_trainable_parameter_has_a_gradient() -> None:
    model = small_deformable_detr()
    images, sizes = batch()
    deformable_criterion()(model(images, sizes), random_targets([3, 0], sizes, 4), sizes, (3.0,)).total.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()  # another one would stop distributed training


def test_pixels_of_padding_are_not_read() -> None:
    model = small_deformable_detr()
    images, sizes = batch()
    before = model(images, sizes)[-1]
    images[0, :, 50:] = 255
    images[1, :, :, 40:] = 255
    after = model(images, sizes)[-1]
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.boxes_cxcywh_norm, after.boxes_cxcywh_norm)


def test_pixels_are_normalised_and_padding_is_zero_after_it() -> None:
    model = small_deformable_detr()
    images, sizes = batch()
    got = model.normalize(images, sizes)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(got[0, :, :50, :72], (images[0, :, :50, :72].float() / 255 - mean) / std)
    assert not got[0, :, 50:].any()
    assert not got[1, :, :, 40:].any()


@pytest.mark.parametrize("num_parts", [2, 4])
def test_micro_batches_make_the_step_of_the_whole_batch(num_parts: int) -> None:
    model, criterion = small_deformable_detr(), deformable_criterion()
    images, sizes = batch([(64, 72)] * 4)
    targets = random_targets([3, 0, 1, 8], sizes, 4)
    whole = criterion(model(images, sizes), targets, sizes, (12.0,))
    whole.total.backward()
    wanted = gradients(model)
    model.zero_grad()
    total = 0.0
    for part in torch.arange(4).chunk(num_parts):
        counts = tuple(targets.num_per_image[i] for i in part.tolist())
        truth = Targets(targets.boxes_xyxy_abs[part], targets.labels[part], counts)
        losses = criterion(model(images[part], sizes[part]), truth, sizes[part], (12.0,))
        losses.total.backward()
        total += losses.total.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-5)
    got = gradients(model)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, name


def test_recomputed_layers_give_the_same_numbers() -> None:
    model = small_deformable_detr(dropout=0.1).train()
    images, sizes = batch()
    targets = random_targets([2, 1], sizes, 4)
    results = []
    for recompute in (False, True):
        model.activation_checkpointing = recompute
        assert model.activation_checkpointing is recompute
        model.zero_grad()
        torch.manual_seed(3)
        losses = deformable_criterion()(model(images, sizes), targets, sizes, (3.0,))
        losses.total.backward()
        results.append((losses.total.item(), gradients(model)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[1][1][name], gradient) for name, gradient in results[0][1].items())


def test_dropout_is_of_training_alone() -> None:
    model = small_deformable_detr(dropout=0.5)
    inputs = batch()
    assert not torch.equal(model.train()(*inputs)[-1].logits, model(*inputs)[-1].logits)
    assert torch.equal(model.eval()(*inputs)[-1].logits, model(*inputs)[-1].logits)


def test_bf16_keeps_boxes_in_float32() -> None:
    model = small_deformable_detr()
    inputs = batch()
    wanted = model(*inputs)[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(*inputs)[-1]
    assert got.boxes_cxcywh_norm.dtype == torch.float32
    torch.testing.assert_close(got.boxes_cxcywh_norm, wanted.boxes_cxcywh_norm, rtol=0, atol=0.02)
    torch.testing.assert_close(got.logits.float(), wanted.logits, rtol=0, atol=0.1)


def test_detections_are_those_of_the_last_layer() -> None:
    model = small_deformable_detr(max_detections=5)
    images, sizes = batch()
    outputs = model(images, sizes)
    found = model.detections(outputs, sizes, sizes)
    assert [len(d) for d in found] == [5, 5]
    first = outputs[0]
    wrong = [QueryBoxes(first.logits + 100, first.boxes_cxcywh_norm), outputs[-1]]
    for one, other in zip(model.detections(wrong, sizes, sizes), found, strict=True):
        assert torch.equal(one.scores, other.scores)
    again = model.detections(outputs, sizes, 2 * sizes)
    for one, other in zip(again, found, strict=True):
        torch.testing.assert_close(one.boxes_xyxy_abs, 2 * other.boxes_xyxy_abs)


def test_weights_that_are_not_finite_end_at_the_matching() -> None:
    model = small_deformable_detr()
    with torch.no_grad():
        model.level_embed[0, 0] = float("nan")
    images, sizes = batch()
    outputs = model(images, sizes)
    with pytest.raises(NonFiniteError, match="stage 0: logits of image 0 of the batch hold NaN or infinity"):
        deformable_criterion()(outputs, random_targets([1, 1], sizes, 4), sizes, (2.0,))
    fine = QueryBoxes(torch.zeros(2, 6, 4), torch.full((2, 6, 4), 0.5))
    half = QueryBoxes(fine.logits, outputs[1].boxes_cxcywh_norm)
    with pytest.raises(NonFiniteError, match="stage 1: boxes_cxcywh_norm of image 0"):
        deformable_criterion()([fine, half], random_targets([1, 1], sizes, 4), sizes, (2.0,))


def test_tensors_by_class_and_by_query() -> None:
    model = small_deformable_detr(num_classes=7, num_queries=9)
    shapes = {name: p.shape[0] for name, p in model.named_parameters()}
    assert {name for name, rows in shapes.items() if rows == 7} == model.class_tensors().keys()
    assert {name for name, rows in shapes.items() if rows == 9} == model.proposal_tensors()


def test_rejected() -> None:
    description = deformable_architecture()
    for changes, message in [
        ({"num_queries": 0}, "num_queries and max_detections must be at least 1, got 0 and 100"),
        ({"num_levels": 5}, "num_levels is 5, but 4 in the encoder"),
        ({"num_levels": 2}, "num_levels is 2, but 4 in the encoder"),
        ({"decoder": description["decoder"] | {"hidden_dim": 64}}, "hidden_dim is 64 in the decoder and 32 in the enc"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            build(description | changes)


def test_more_levels() -> None:
    model = small_deformable_detr(num_levels=5)
    assert isinstance(model, DeformableDETR)
    assert model(*batch())[-1].logits.isfinite().all()
