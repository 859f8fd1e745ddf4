"""Predictions that are not finite: an error of every detector, in the copy to the host that there is anyway."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from sparse_rcnn.detector_base import Detector
from sparse_rcnn.errors import UserError
from sparse_rcnn.finite import NonFinitePredictionError, check_finite, finite_on_host
from sparse_rcnn.matcher import NonFiniteError
from tests.support.cascade_rcnn import small_cascade_rcnn
from tests.support.deformable_detr import small_deformable_detr
from tests.support.detectors import images_of, small_detector
from tests.support.detr import small_detr
from tests.support.faster_rcnn import small_faster_rcnn
from tests.support.retinanet import small_retinanet

DETECTORS: dict[str, Callable[[], Detector]] = {
    "sparse_rcnn": small_detector,
    "retinanet": small_retinanet,
    "faster_rcnn": small_faster_rcnn,
    "cascade_rcnn": small_cascade_rcnn,
    "detr": small_detr,
    "deformable_detr": small_deformable_detr,
}
# The tensor of the boxes, and the part of the detector that makes it; those on proposals have tests of their own.
BOXES = {
    "sparse_rcnn": ("boxes", "stages.1"),
    "retinanet": ("deltas", "head.regression_head.bbox_reg"),
    "detr": ("boxes", "bbox_embed"),
    "deformable_detr": ("boxes", "bbox_embed"),
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", DETECTORS)
def test_one_number_among_the_logits_is_enough(name: str, value: float) -> None:
    model = DETECTORS[name]().eval()
    layer = next(n for n in reversed(list(model.class_tensors())) if n.endswith("bias") and "bbox" not in n)
    images, sizes = images_of([(64, 64), (60, 50)])
    with torch.no_grad():
        assert len(model.detections(model(images, sizes), sizes, sizes)) == 2
        model.get_parameter(layer)[0] = value
        output = model(images, sizes)
        for method in (model.detections, model.stage_detections, model.stage_boxes):
            with pytest.raises(
                NonFinitePredictionError, match=r"^(detections|stage \d): NaN or infinity in logits: take"
            ):
                method(output, sizes, sizes)


@pytest.mark.parametrize("name", BOXES)
def test_so_is_one_among_the_boxes(name: str) -> None:
    model = DETECTORS[name]().eval()
    tensor, part = BOXES[name]
    layer = [n for n, p in model.named_parameters() if n.startswith(part) and p.ndim == 1 and len(p) in (4, 36)][-1]
    images, sizes = images_of([(64, 64)])
    with torch.no_grad():
        model.get_parameter(layer)[1] = math.nan
        output = model(images, sizes)
        for method in (model.detections, model.stage_boxes):
            with pytest.raises(
                UserError, match=f"^detections: NaN or infinity in {tensor}: take weights of a training"
            ):
                method(output, sizes, sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_tensor_at_fault_is_named(dtype: torch.dtype, value: float) -> None:
    good, bad = torch.full((3, 5), 60000.0, dtype=dtype), torch.zeros(2, 3, dtype=dtype)
    bad[1, 1] = value
    for values in (torch.arange(6).view(2, 3), torch.arange(6.0).view(2, 3), torch.zeros(0, 4)):
        copied = finite_on_host("here", values, good=good, empty=good[:0])
        assert copied.dtype == values.dtype
        assert torch.equal(copied, values)
        with pytest.raises(NonFinitePredictionError, match=r"^here: NaN or infinity in bad: ") as caught:
            finite_on_host("here", values, good=good, bad=bad, worse=bad)
        assert caught.value.fault == "here: NaN or infinity in bad"
    check_finite("here", False, good=good)
    with pytest.raises(NonFiniteError, match=r"^here: NaN or infinity in bad$") as in_training:
        check_finite("here", True, good=good, bad=bad)
    assert not isinstance(in_training.value, UserError)
