"""The pictures of training against those of a textbook's reading with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import Sample
from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.transforms import RandomCropRecipe, TrainTransform
from tests.support.textbook_data import TextbookMapper, padded

BOXES = torch.tensor([[10.0, 5.0, 60.0, 40.0], [-5.0, 20.0, 30.0, 200.0], [150.0, 10.0, 170.0, 20.0]])
LABELS = torch.tensor([2, 0, 1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 14, 3), dtype=np.uint8))
    coarse.resize((140, 90), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def both(path: Path, short_side: int, flip: float, crop_to: int | None) -> tuple[Sample, tuple[Tensor, Tensor, Tensor]]:
    """Ours and the textbook's where nothing is left to chance: a crop as large as the picture."""
    crop = None if crop_to is None else RandomCropRecipe(1.0, [crop_to], 1000, 1000)
    boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(90, 140))
    image, kept, labels = TrainTransform([short_side], 200, flip, crop)(read_image(path), boxes, LABELS)
    ours = Sample(image, kept.as_subclass(Tensor), labels, 0, (90, 140))
    numbers = None if crop_to is None else (1.0, [crop_to], 1000, 1000)
    mapper = TextbookMapper([short_side], 200, flip, numbers)
    return ours, mapper(path, BOXES, LABELS, np.random.default_rng(0))


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(("short_side", "crop_to"), [(64, None), (180, None), (70, 45)])
def test_pixels_boxes_and_labels_are_the_textbooks(
    path: Path, short_side: int, flip: float, crop_to: int | None
) -> None:
    ours, (image, boxes, labels) = both(path, short_side, flip, crop_to)
    assert ours.image.shape == image.shape
    difference = (ours.image.int() - image.int()).abs()
    assert int(difference.max()) <= 2, "of 255, by rounding"
    torch.testing.assert_close(ours.boxes_xyxy_abs, boxes, rtol=0, atol=1e-3)
    assert ours.labels.tolist() == labels.tolist() == [2, 0]


def test_batches_are_padded_as_the_textbooks(path: Path) -> None:
    samples = [both(path, side, 0.0, None) for side in (64, 70)]
    ours = collate([sample for sample, _ in samples], 32).images
    images = [sample.image.as_subclass(Tensor) for sample, _ in samples]
    torch.testing.assert_close(ours, padded(images, 32))
