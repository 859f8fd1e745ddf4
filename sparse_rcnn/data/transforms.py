"""Augmentation and resizing: callables on (image, boxes, labels), from torchvision.transforms.v2.

A transform takes and returns ``(image, boxes, labels)``: a ``tv_tensors.Image`` (3, H, W), a
``tv_tensors.BoundingBoxes`` (M, 4) in XYXY pixels and an int64 tensor (M,). Its randomness comes from torch's
global CPU generator alone, which the data set seeds per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MIN_BOX_SIDE = 1e-5  # pixels; semantics.md#augmentation


def shortest_edge_size_hw(size_hw: tuple[int, int], short_side: int, max_long_side: int | None) -> tuple[int, int]:
    """Height and width after resizing the short side to ``short_side``, or the long one to its limit.

    Sides are rounded half up, so that the chosen side comes out exactly; none gets smaller than 1.
    """
    height, width = size_hw
    short, long = min(height, width), max(height, width)
    ratio = short_side / short
    if max_long_side is not None and long * ratio > max_long_side:
        ratio = max_long_side / long
    return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))


def draw(low: int, high: int) -> int:
    """A uniform integer of [low, high], both ends included."""
    return int(torch.randint(low, high + 1, ()))


def resize(value: Any, size_hw: tuple[int, int]) -> Any:
    """Bilinear, antialiased, in uint8 for images; boxes scale by the exact ratio of each axis."""
    return F.resize(value, list(size_hw), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)


class ResizeShortestEdge(v2.Transform):
    """Resize the short side to one of ``short_sides``, keeping the aspect ratio (semantics.md#augmentation).

    torchvision's ``RandomShortestSize`` truncates where the released models were trained with rounding, so
    the chosen side can come out one pixel short there.

    Args:
        short_sides: pixels; one is drawn uniformly.
        max_long_side: pixels; where the long side would pass it, the image is scaled to it. None: no limit.
    """

    def __init__(self, short_sides: Sequence[int], max_long_side: int | None) -> None:
        super().__init__()
        self.short_sides = checked_sizes("short_sides", short_sides)
        self.max_long_side = None if max_long_side is None else checked_size("max_long_side", max_long_side)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(flat_inputs[0])
        # Of one size there is nothing to draw: a prediction during training must not move the generator on.
        short_side = self.short_sides[draw(0, len(self.short_sides) - 1) if len(self.short_sides) > 1 else 0]
        return {"size_hw": shortest_edge_size_hw((height, width), short_side, self.max_long_side)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return resize(inpt, params["size_hw"])


class RandomCropRecipe(v2.Transform):
    """With some probability resize the short side, then crop at random (semantics.md#augmentation, step 2).

    Args:
        probability: of doing anything at all.
        short_sides: pixels; the short side is first resized to one of them, without limit on the long side.
        min_size, max_size: each side of the crop is a uniform integer in [min(side, min_size),
            min(side, max_size)], at a uniform position.
    """

    def __init__(self, probability: float, short_sides: Sequence[int], min_size: int, max_size: int) -> None:
        super().__init__()
        self.probability = checked_probability("probability", probability)
        self.short_sides = checked_sizes("short_sides", short_sides)
        self.min_size = checked_size("min_size", min_size)
        self.max_size = checked_size("max_size", max_size)
        if min_size > max_size:
            raise ValueError(f"min_size must be at most max_size, got {min_size} and {max_size}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if torch.rand(()) >= self.probability:
            return {}
        height, width = F.get_size(flat_inputs[0])
        short_side = self.short_sides[draw(0, len(self.short_sides) - 1)]
        height, width = shortest_edge_size_hw((height, width), short_side, None)
        crop_height = draw(min(height, self.min_size), min(height, self.max_size))
        crop_width = draw(min(width, self.min_size), min(width, self.max_size))
        top, left = draw(0, height - crop_height), draw(0, width - crop_width)
        return {"size_hw": (height, width), "crop": (top, left, crop_height, crop_width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not params:
            return inpt
        return dense(F.crop(resize(inpt, params["size_hw"]), *params["crop"]))


def dense(value: Any) -> Any:
    """An image whose pixels lie without gaps, channels together, as the next resize is fastest with; boxes as they are.

    Of a part of an image, which a crop is a view of, torchvision resizes each channel on its own: 2.7 ms, not 0.6.
    """
    if not isinstance(value, tv_tensors.Image):
        return value
    return tv_tensors.wrap(value.permute(1, 2, 0).contiguous().permute(2, 0, 1), like=value)


class TrainTransform:
    """The augmentation of training: flip, crop recipe, resize, then ground truth clipped (semantics.md#augmentation).

    Args:
        short_sides, max_long_side: see ``ResizeShortestEdge``.
        flip_probability: of the horizontal flip.
        crop: the crop transform, or None for none.
    """

    def __init__(
        self,
        short_sides: Sequence[int],
        max_long_side: int | None,
        flip_probability: float,
        crop: v2.Transform | None,
    ) -> None:
        self.resize = ResizeShortestEdge(short_sides, max_long_side)
        self.short_sides, self.max_long_side = self.resize.short_sides, max_long_side
        self.flip_probability = checked_probability("flip_probability", flip_probability)
        self.flip = v2.RandomHorizontalFlip(flip_probability)
        self.crop = crop

    def __call__(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, labels: Tensor
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]:
        image, boxes = self.flip(image, boxes)
        if self.crop is not None:
            image, boxes = self.crop(image, boxes)
        image, boxes = self.resize(image, boxes)
        return image, *clip_boxes(boxes, labels)


class EvalTransform:
    """The resize of evaluation, on an image alone or with its boxes and labels (clipped as in training)."""

    def __init__(self, short_side: int, max_long_side: int | None) -> None:
        self.short_side = checked_size("short_side", short_side)
        self.max_long_side = max_long_side
        self.resize = ResizeShortestEdge([short_side], max_long_side)

    @overload
    def __call__(self, image: tv_tensors.Image) -> tv_tensors.Image: ...
    @overload
    def __call__(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, labels: Tensor
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]: ...
    def __call__(self, image: Any, boxes: Any = None, labels: Any = None) -> Any:
        if boxes is None:
            return self.resize(image)
        image, boxes = self.resize(image, boxes)
        return image, *clip_boxes(boxes, labels)


def clip_boxes(boxes: tv_tensors.BoundingBoxes, labels: Tensor) -> tuple[tv_tensors.BoundingBoxes, Tensor]:
    """Clip boxes to their image and drop those with a side of at most 1e-5 pixels, with their labels."""
    boxes = F.clamp_bounding_boxes(boxes)
    x1, y1, x2, y2 = boxes.as_subclass(Tensor).unbind(-1)
    keep = (x2 - x1 > MIN_BOX_SIDE) & (y2 - y1 > MIN_BOX_SIDE)
    return tv_tensors.wrap(boxes[keep], like=boxes), labels[keep]


def checked_size(argument: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument} must be a whole number of pixels, at least 1, got {value!r}")
    return value


def checked_sizes(argument: str, values: Sequence[int]) -> list[int]:
    if isinstance(values, (str, int, float)) or values is None or len(values) == 0:
        raise ValueError(f"{argument} must be a list of at least one size in pixels, got {values!r}")
    return [checked_size(argument, value) for value in values]


def checked_probability(argument: str, value: float) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{argument} must be between 0 and 1, got {value!r}")
    return value
