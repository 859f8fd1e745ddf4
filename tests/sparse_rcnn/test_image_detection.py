"""From images of any kind to detections in their pixels: SparseRCNN.predict and predict_stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparse_rcnn import SparseRCNN
from sparse_rcnn.boxes import whwh
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.image import EXIF_ORIENTATION
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.image_detection import load_image
from sparse_rcnn.postprocess import select_detections
from sparse_rcnn.structures import Detections, StageOutput
from sparse_rcnn.weights import save_detector
from tests.support.detectors import NUM_PROPOSALS, NUM_STAGES, small_card, small_detector
from tests.support.pictures import picture, to_pil


@pytest.fixture(scope="module")
def model() -> SparseRCNN:
    return small_detector(card=small_card()).eval()


def assert_same(a: Detections, b: Detections, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(a.boxes_xyxy_abs, b.boxes_xyxy_abs, rtol=0, atol=tolerance)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=tolerance)
    assert a.labels.tolist() == b.labels.tolist()


def test_three_lines_from_a_file_to_boxes_in_its_pixels(model: SparseRCNN, tmp_path: Path) -> None:
    save_detector(model, model.card, tmp_path / "m.safetensors")
    to_pil(picture(40, 60)).save(tmp_path / "photo.png")

    loaded = SparseRCNN.from_pretrained(str(tmp_path / "m.safetensors"))
    detections = loaded.predict(str(tmp_path / "photo.png"))

    assert 0 < len(detections) <= NUM_PROPOSALS
    x1, y1, x2, y2 = detections.boxes_xyxy_abs.unbind(1)
    assert x1.min() >= 0
    assert y1.min() >= 0
    assert x2.max() <= 60
    assert y2.max() <= 40
    assert y2.max() > 20  # in pixels of the file, not of the 64 x 96 the model sees
    assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
    assert {loaded.card.class_names[label] for label in detections.labels.tolist()} <= {"cat", "dog"}


def test_every_kind_of_input_gives_the_same_detections(model: SparseRCNN, tmp_path: Path) -> None:
    image = picture()
    to_pil(image).save(tmp_path / "photo.png")
    expected = model.predict(image)
    inputs = [tmp_path / "photo.png", str(tmp_path / "photo.png"), to_pil(image), image.float()]
    for given in inputs:
        assert_same(model.predict(given), expected)
    for found in model.predict(inputs, batch_size=1):
        assert_same(found, expected)


def test_it_is_evaluation_s_resize_padding_and_selection(model: SparseRCNN) -> None:
    from sparse_rcnn.data.coco import Sample
    from sparse_rcnn.data.transforms import EvalTransform

    image = load_image(picture(), "x")
    resized = EvalTransform(64, 96)(image)
    assert tuple(resized.shape) == (3, 64, 96)
    sample = Sample(resized, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, (40, 60))
    batch = collate([sample], 32)
    with torch.no_grad():
        output = model(batch.images, batch.image_sizes_hw)[-1]
    expected = select_detections(output, batch.image_sizes_hw, batch.original_sizes_hw)[0]
    assert_same(model.predict(picture()), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_list_gives_what_each_image_gives_alone(model: SparseRCNN, batch_size: int) -> None:
    sizes = [(40, 60), (60, 40), (50, 50), (40, 60), (41, 60), (200, 300), (40, 60)]
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    found = model.predict(images, batch_size=batch_size)
    assert len(found) == len(images)
    for image, detections in zip(images, found, strict=True):
        assert_same(detections, model.predict(image), tolerance=2e-3)
    assert model.predict([]) == []
    assert isinstance(model.predict((images[0],)), list)


def test_the_threshold_is_the_least_score_and_off_by_default(model: SparseRCNN) -> None:
    everything = model.predict(picture())
    threshold = everything.scores[2].item()
    assert_same(model.predict(picture(), threshold), everything.above(threshold))
    assert len(model.predict(picture(), threshold)) == 3
    assert len(model.predict(picture(), 1.0)) == 0
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="score_threshold must be within 0 and 1"):
            model.predict(picture(), wrong)
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        model.predict(picture(), batch_size=0)


def test_modes_and_gradients_are_as_before(model: SparseRCNN) -> None:
    model.train()
    model.backbone.eval()
    try:
        detections = model.predict(picture())
        assert not detections.scores.requires_grad
        assert model.training
        assert model.stages[0].training
        assert not model.backbone.training
        assert not model.backbone.bottom_up.training
        with pytest.raises(DataError):
            model.predict("absent.jpg")
        assert model.training
        with eval_mode(model):
            assert not model.training
        assert model.training
    finally:
        model.eval()


def test_greyscale_palette_alpha_and_rotated_pictures(model: SparseRCNN) -> None:
    grey = to_pil(picture()).convert("L")
    expected = model.predict(grey.convert("RGB"))
    assert_same(model.predict(grey), expected)
    with_alpha = grey.convert("RGB").convert("RGBA")
    with_alpha.putalpha(77)
    assert_same(model.predict(with_alpha), expected)

    stored = to_pil(picture(30, 60))
    stored.getexif()[EXIF_ORIENTATION] = 6  # shown after a turn of 90 degrees clockwise
    upright = stored.transpose(Image.Transpose.ROTATE_270)
    assert upright.size == (30, 60)
    assert_same(model.predict(stored), model.predict(upright))


def test_deep_pil_images_follow_the_rule_of_files(model: SparseRCNN, tmp_path: Path) -> None:
    deep = np.linspace(0, 4095, 2400).reshape(40, 60).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "p.png")
    expected = model.predict(Image.fromarray((deep >> 4).astype(np.uint8)))
    for given in (Image.fromarray(deep), Image.fromarray(deep.astype(np.int32)), tmp_path / "p.png"):
        with pytest.raises(DataError, match="which value is white cannot be known; give pixel_range"):
            model.predict(given)
        with pytest.raises(DataError, match="give pixel_range"):
            model.predict_stages(given)
        assert_same(model.predict(given, pixel_range="uint12"), expected)
        model.predict_stages(given, pixel_range="uint12")
    with pytest.raises(UserError, match="pixel_range must be auto, "):
        model.predict(picture(), pixel_range="uint7")


def test_weights_carry_the_range_they_were_trained_with(tmp_path: Path) -> None:
    card = replace(small_card(), pixel_range="uint12")
    model = small_detector(card=card).eval()
    save_detector(model, card, tmp_path / "m.safetensors")
    loaded = SparseRCNN.from_pretrained(tmp_path / "m.safetensors")
    deep = np.linspace(0, 4095, 2400).reshape(40, 60).astype(np.uint16)
    found = loaded.predict(Image.fromarray(deep))
    assert_same(found, model.predict(Image.fromarray((deep >> 4).astype(np.uint8))))
    with pytest.raises(DataError, match="cannot be known"):
        loaded.predict(Image.fromarray(deep), pixel_range="auto")


def test_the_limit_of_size_is_for_files_and_what_is_not_loaded_yet(model: SparseRCNN, tmp_path: Path) -> None:
    to_pil(picture()).save(tmp_path / "p.png")
    with pytest.raises(DataError, match=r"p.png is 40 x 60 pixels .* give a larger max_megapixels"):
        model.predict(tmp_path / "p.png", max_megapixels=0.001)
    with Image.open(tmp_path / "p.png") as opened:
        with pytest.raises(DataError, match=r"image 0 \(a PIL image\) is 40 x 60 pixels"):
            model.predict(opened, max_megapixels=0.001)
        opened.load()
        assert_same(model.predict(opened, max_megapixels=0.001), model.predict(picture()))


def test_the_rotation_of_a_file_and_of_the_picture_opened_from_it_is_one(model: SparseRCNN, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 8
    to_pil(picture(30, 60)).save(tmp_path / "p.png", exif=exif)
    with Image.open(tmp_path / "p.png") as opened:
        assert tuple(load_image(opened, "x").shape) == (3, 60, 30)
        assert_same(model.predict(opened), model.predict(tmp_path / "p.png"))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 4, 4)), "image 0 is a ndarray: give a path, a PIL image, a tensor"),
        (None, "image 0 is a NoneType"),
        (torch.zeros(4, 4, 3), r"image 0 has shape \(4, 4, 3\): give a tensor \(3, H, W\)"),
        (torch.zeros(2, 3, 4, 4), r"shape \(2, 3, 4, 4\).* or a list of them"),
        (torch.zeros(3, 0, 4), r"shape \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "dtype torch.int64: give uint8 or float"),
        (torch.rand(3, 4, 4), r"no value above .*: give RGB in 0..255, not in 0..1"),
        (torch.full((3, 4, 4), -1.0), "values from -1 to -1: give RGB in 0..255, not normalised"),
        (torch.full((3, 4, 4), torch.nan), "values from nan to nan"),
    ],
)
def test_what_is_no_image_is_refused(model: SparseRCNN, image: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(image)
    with pytest.raises(UserError, match=message.replace("image 0", "image 1")):
        model.predict([picture(), image])


def test_files_that_cannot_be_read_are_named(model: SparseRCNN, tmp_path: Path) -> None:
    to_pil(picture()).save(tmp_path / "p.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "p.png").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"absent.jpg does not exist"):
        model.predict("absent.jpg")
    with pytest.raises(DataError, match=r"cut.png cannot be read as an image"):
        model.predict(tmp_path / "cut.png")
    with (
        Image.open(tmp_path / "cut.png") as opened,
        pytest.raises(DataError, match="image 0: the PIL image cannot be read"),
    ):
        model.predict(opened)


def test_a_model_without_card_says_what_is_missing() -> None:
    model = small_detector(card=small_card()).eval()
    model.card = None
    with pytest.raises(UserError, match="no card, so its image size and classes are unknown"):
        model.predict(picture())
    with pytest.raises(UserError, match="no card"):
        model.predict_stages(picture())


def test_stages_are_in_pixels_of_the_image_and_end_in_the_detections(model: SparseRCNN) -> None:
    stages = model.predict_stages(picture())
    shape = (NUM_STAGES, NUM_PROPOSALS)
    assert stages.boxes_xyxy_abs.shape == (*shape, 4)
    assert stages.scores.shape == stages.labels.shape == shape

    scale = torch.tensor([60.0, 40.0, 60.0, 40.0])  # the proposals are relative to the image
    cx, cy, w, h = (model.proposals.boxes_cxcywh_norm.detach() * scale).unbind(1)
    proposals = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=1)
    torch.testing.assert_close(stages.proposals_xyxy_abs, proposals)

    size = torch.tensor([[40, 60]])
    detected = model.predict(picture())
    # The best class of a box is among the detections wherever its box is, clipped to the image.
    best = stages.scores[-1].argmax()
    assert stages.scores[-1, best] == pytest.approx(detected.scores[0].item(), abs=1e-5)
    assert stages.labels[-1, best] == detected.labels[0]
    limit = whwh(size)[0]
    clipped = torch.minimum(stages.boxes_xyxy_abs[-1, best].clamp(min=0), limit)
    torch.testing.assert_close(clipped, detected.boxes_xyxy_abs[0], rtol=0, atol=1e-3)


def test_a_stage_gives_each_box_with_its_best_class() -> None:
    detector = small_detector(card=small_card()).eval()
    logits = torch.tensor([[[-1.0, 2.0], [3.0, -2.0]]])
    output = [StageOutput(logits, torch.tensor([[[0.0, 4.0, 8.0, 16.0], [2.0, 2.0, 4.0, 4.0]]]))]
    ((stage,),) = detector.stage_boxes(output, torch.tensor([[32, 64]]), torch.tensor([[16, 128]]))
    assert stage.labels.tolist() == [1, 0]
    torch.testing.assert_close(stage.scores, torch.tensor([2.0, 3.0]).sigmoid())
    assert stage.boxes_xyxy_abs.tolist() == [[0.0, 2.0, 16.0, 8.0], [4.0, 1.0, 8.0, 2.0]]


def test_the_forward_of_training_takes_raw_batches_as_before(model: SparseRCNN) -> None:
    outputs = model(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96], [40, 60]]))
    assert [tuple(output.logits.shape) for output in outputs] == [(2, NUM_PROPOSALS, 2)] * NUM_STAGES
    assert outputs[-1].boxes_xyxy_abs.requires_grad
