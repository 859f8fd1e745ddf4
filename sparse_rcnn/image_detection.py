"""Detections for pictures: a file, a PIL image or a tensor in, boxes in its own pixels out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import Sample
from sparse_rcnn.data.image import exif_orientation, read_image, to_rgb, to_upright
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS, check_megapixels, without_pillow_limit
from sparse_rcnn.data.transforms import EvalTransform
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.pixel_range import AUTO, PixelRange, checked_pixel_range
from sparse_rcnn.structures import Batch, Detections

ImageInput = str | os.PathLike[str] | Image.Image | Tensor
"""A file, a PIL image, or a tensor (3, H, W) of RGB in 0..255, uint8 or float."""


@dataclass(frozen=True)
class StagePredictions:
    """The boxes of every stage on one image, in pixels of the image, each with its best class.

    Shapes: ``boxes_xyxy_abs`` (S, P, 4), ``scores`` and ``labels`` (S, P); ``proposals_xyxy_abs`` (P, 4), the learned
    boxes that the first stage refines, None where there are none; ``responses`` (S, P, h, w), how much the dynamic head
    leaves of each position of its RoI feature, None for heads that filter nothing. All on the CPU. Of a detector
    without stages S is 1, and the boxes are its detections.
    """

    proposals_xyxy_abs: Tensor | None
    boxes_xyxy_abs: Tensor
    scores: Tensor
    labels: Tensor
    responses: Tensor | None


@torch.no_grad()
def predict(
    model: DetectorModule,
    images: Sequence[ImageInput],
    score_threshold: float,
    batch_size: int,
    pixel_range: PixelRange | None,
    max_megapixels: float | None,
) -> list[Detections]:
    """Detections of each image, see ``Detector.predict``."""
    if not 0 <= score_threshold <= 1:
        raise UserError(f"score_threshold must be within 0 and 1, got {score_threshold}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    card = _card(model)
    transform = EvalTransform(card.short_side, card.max_long_side)
    pixel_range = card.pixel_range if pixel_range is None else checked_pixel_range(pixel_range)
    found: dict[int, Detections] = {}

    def run(samples: list[Sample]) -> None:
        batch, output = _forward(model, samples)
        for i, detections in zip(
            batch.image_ids,
            model.detections(output, batch.image_sizes_hw, batch.original_sizes_hw),
            strict=True,
        ):
            found[i] = detections.above(score_threshold)

    # Only images of one padded size share a batch: more padding changes the numbers a little, and what is
    # found in an image must not depend on its company.
    waiting: defaultdict[tuple[int, ...], list[Sample]] = defaultdict(list)
    with eval_mode(model):
        for i, image in enumerate(images):
            sample = _sample(transform, load_image(image, f"image {i}", pixel_range, max_megapixels), i)
            group = waiting[tuple(-(-side // model.size_divisor) for side in sample.image.shape[-2:])]
            group.append(sample)
            if len(group) == batch_size:
                run(group)
                group.clear()
        for group in waiting.values():
            if group:
                run(group)
    return [found[i] for i in range(len(found))]


@torch.no_grad()
def predict_stages(
    model: DetectorModule, image: ImageInput, pixel_range: PixelRange | None, max_megapixels: float | None
) -> StagePredictions:
    """The learned boxes and every stage's boxes on one image, see ``Detector.predict_stages``."""
    card = _card(model)
    pixel_range = card.pixel_range if pixel_range is None else checked_pixel_range(pixel_range)
    pixels = load_image(image, "the image", pixel_range, max_megapixels)
    sample = _sample(EvalTransform(card.short_side, card.max_long_side), pixels, 0)
    with eval_mode(model), model.recording_responses() as responses:
        batch, output = _forward(model, [sample])
        sizes_hw = (batch.image_sizes_hw, batch.original_sizes_hw)
        stages = [stage for (stage,) in model.stage_boxes(output, *sizes_hw)]
        proposals_xyxy_abs = model.start_boxes(*sizes_hw)
    return StagePredictions(
        None if proposals_xyxy_abs is None else proposals_xyxy_abs[0].cpu(),
        torch.stack([stage.boxes_xyxy_abs for stage in stages]),
        torch.stack([stage.scores for stage in stages]),
        torch.stack([stage.labels for stage in stages]),
        torch.cat(list(responses)).float().cpu() if responses else None,
    )


def load_image(
    image: ImageInput, who: str, pixel_range: PixelRange = AUTO, max_megapixels: float | None = MAX_MEGAPIXELS
) -> tv_tensors.Image:
    """What a user may give as an image, as RGB uint8 (3, H, W), upright.

    Args:
        who: the name, in errors, of an image that is not a file.
        pixel_range, max_megapixels: of files and PIL images, see ``read_image``; a PIL image whose pixels are loaded
            may have any size.

    Raises:
        DataError: a file or a PIL image cannot be read.
        UserError: something else than an image.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image), pixel_range=pixel_range, max_megapixels=max_megapixels)
    if isinstance(image, Image.Image):
        who_pil = f"{who} (a PIL image)"
        try:
            with without_pillow_limit():
                if getattr(image, "tile", None):
                    check_megapixels(image, who_pil, max_megapixels)
                upright = to_upright(to_rgb(image, who_pil, pixel_range), exif_orientation(image))
        except UserError:
            raise
        # PIL reads a file when its pixels are first asked for, and decoders fail in every way there is.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{who}: the PIL image cannot be read: {reason}") from error
        return F.to_image(upright)
    if not isinstance(image, Tensor):
        raise UserError(
            f"{who} is a {type(image).__name__}: give a path, a PIL image, a tensor (3, H, W) or a list of these"
        )
    return _checked_tensor(image, who)


def _checked_tensor(image: Tensor, who: str) -> tv_tensors.Image:
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise UserError(f"{who} has shape {tuple(image.shape)}: give a tensor (3, H, W), or a list of them")
    if image.dtype != torch.uint8:
        if not image.is_floating_point():
            raise UserError(f"{who} has dtype {image.dtype}: give uint8 or float, 0..255")
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 255):  # NaN is neither
            raise UserError(f"{who} has values from {low:g} to {high:g}: give RGB in 0..255, not normalised")
        if 0 < high <= 1:
            raise UserError(f"{who} has no value above {high:g}: give RGB in 0..255, not in 0..1")
        # Files come in uint8 and are resized in it; the same picture as floats must give the same boxes.
        image = image.round().to(torch.uint8)
    return tv_tensors.Image(image.detach().cpu())


def _card(model: DetectorModule) -> ModelCard:
    if model.card is None:
        raise UserError(
            "the model has no card, so its image size and classes are unknown: load it with "
            "its class's from_pretrained, or set model.card = ModelCard(...) (sparse_rcnn.model_card)"
        )
    return model.card


def _sample(transform: EvalTransform, image: tv_tensors.Image, index: int) -> Sample:
    height, width = image.shape[-2:]
    no_boxes, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return Sample(transform(image), no_boxes, no_labels, image_id=index, original_size_hw=(height, width))


def _forward(model: DetectorModule, samples: list[Sample]) -> tuple[Batch, Any]:
    batch = collate(samples, model.size_divisor).to(model.pixel_mean.device)
    return batch, model(batch.images, batch.image_sizes_hw)
