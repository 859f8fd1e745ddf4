"""What a row costs: parameters, forward FLOPs on the meta device, and an estimate of GPU-hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.build import Config, build, with_num_classes
from experiments.config.targets import ConfigError
from sparse_rcnn.data.transforms import shortest_edge_size_hw
from sparse_rcnn.detector_module import DetectorModule

PHOTO_SIZE_HW = (480, 640)  # the most frequent size in COCO, and the aspect ratio of most cameras
FALLBACK_NUM_CLASSES = 80  # where only the annotation file knows: COCO's


@dataclass(frozen=True)
class Cost:
    """What one row costs.

    Attributes:
        num_parameters, num_trainable: elements; frozen batch norm has buffers, not parameters.
        forward_flops: of one image; 2 x multiply-adds.
        roi_pooling_flops: those of RoI pooling, which come on top.
        image_size_hw, image_reason: of that image, padding included, and why this size.
        classes: how many the detector tells apart, in words.
        num_images_seen: in the whole training, repetitions counted; None where only the data knows.
    """

    num_parameters: int
    num_trainable: int
    forward_flops: int
    roi_pooling_flops: int
    image_size_hw: tuple[int, int]
    image_reason: str
    classes: str
    num_images_seen: int | None

    @property
    def total_flops(self) -> int:
        """Forward FLOPs of one image, RoI pooling included."""
        return self.forward_flops + self.roi_pooling_flops

    def gpu_hours(self, sustained_tflops: float) -> float | None:
        """Estimated hours of training on one GPU that sustains ``sustained_tflops`` (1e12 FLOP/s)."""
        if self.num_images_seen is None:
            return None
        # A backward pass costs about two forward ones: one for the inputs' gradients, one for the weights'.
        return 3 * self.total_flops * self.num_images_seen / (sustained_tflops * 1e12) / 3600

    def cells(self, sustained_tflops: float) -> tuple[str, str, str, str, str]:
        """Parameters, trainable ones, GFLOPs, images of the training and GPU-hours, to be read."""
        hours = self.gpu_hours(sustained_tflops)
        return (
            f"{self.num_parameters / 1e6:.2f} M",
            f"{self.num_trainable / 1e6:.2f} M",
            f"{self.total_flops / 1e9:.2f}",
            "-" if self.num_images_seen is None else f"{self.num_images_seen:,}".replace(",", " "),
            "-" if hours is None else f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}",
        )


def footnote(costs: Sequence[Cost], sustained_tflops: float) -> str:
    """The legend of the rows' numbers, with the image sizes of each detector where they differ."""
    sizes = dict.fromkeys(f"{height} x {width} ({reason})" for height, width, reason in map(_size, costs))
    classes = dict.fromkeys(cost.classes for cost in costs)
    unknown = "the length of the training in images is that of data not read here"
    hours = f"unknown, {unknown}"
    if any(cost.num_images_seen is not None for cost in costs):
        some = f"; unknown (-) where {unknown}" if any(cost.num_images_seen is None for cost in costs) else ""
        hours = (
            f"an estimate: 3 x GFLOPs x images of the training / {sustained_tflops:g} TFLOP/s sustained, "
            f"all images at that size{some}"
        )
    return (
        f"GFLOPs: forward pass of one image of {' or, as its detector has it, '.join(sizes)}, "
        f"{' or '.join(classes)}, 2 x multiply-adds, those of RoI pooling included. "
        f"GPU-hours: {hours}. Frozen batch norm counts as no parameters."
    )


def _size(cost: Cost) -> tuple[int, int, str]:
    return *cost.image_size_hw, cost.image_reason


def cost_of(config: Config) -> Cost:
    """The cost of what a checked configuration describes; nothing is allocated.

    Raises:
        ConfigError: the model does not build, or its parts do not fit together.
    """
    data = config["data"]
    num_classes = data["num_classes"] or (data["generator"] or {}).get("num_classes")
    config = with_num_classes(config, num_classes or FALLBACK_NUM_CLASSES)
    with torch.device("meta"):
        model = build(config, "model")
    size_hw, reason = image_size_of(config, model.size_divisor)
    try:
        flops, pooling_flops = forward_flops(model, size_hw)
    except RuntimeError as error:
        raise ConfigError(f"model: its forward pass fails: {str(error).splitlines()[0]}") from error
    parameters = list(model.parameters())
    return Cost(
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        forward_flops=flops,
        roi_pooling_flops=pooling_flops,
        image_size_hw=size_hw,
        image_reason=reason,
        classes=f"{num_classes or FALLBACK_NUM_CLASSES} classes" + ("" if num_classes else " assumed"),
        num_images_seen=num_images_seen(config),
    )


def image_size_of(config: Config, size_divisor: int) -> tuple[tuple[int, int], str]:
    """Height and width of an image at the evaluation size, padded to multiples of a divisor, and why this size.

    Generated images have a known size; others are taken to be photos of 480 x 640.
    """
    generator, evaluation = config["data"]["generator"] or {}, config["input"]["eval"]
    side = generator.get("image_size")
    original_hw = PHOTO_SIZE_HW if side is None else (side, side)
    resized_hw = shortest_edge_size_hw(original_hw, evaluation["short_side"], evaluation["max_long_side"])
    height, width = (-(-side // size_divisor) * size_divisor for side in resized_hw)
    what = "a photo" if side is None else "a generated image"
    reason = (
        f"{what} of {original_hw[0]} x {original_hw[1]} resized for evaluation to {resized_hw[0]} x {resized_hw[1]}"
    )
    if size_divisor > 1:
        reason += f", padded to multiples of {size_divisor}"
    return (height, width), reason


def num_images_seen(config: Config) -> int | None:
    """Images of the whole training, repetitions counted; None for epochs of data that was not read."""
    schedule, data = config["schedule"], config["data"]
    if schedule["unit"] == "steps":
        return schedule["length"] * config["train"]["batch_size"]
    num_images = (data["generator"] or {}).get("num_train_images")
    limit = data["train"]["max_images"]
    if num_images is None:
        return None
    return schedule["length"] * (num_images if limit is None else min(num_images, limit))


def forward_flops(model: DetectorModule, size_hw: tuple[int, int]) -> tuple[int, int]:
    """FLOPs (2 x multiply-adds) of one image through a detector on the meta device, and those of its RoI pooling.

    Counted are matrix products, convolutions and attention, and apart from them RoI pooling; elementwise operations
    and norms are not.
    """
    poolers = {name: module for name, module in model.named_modules() if _is_roi_pooler(module)}
    counted = {name: _CountedPooling(pooler.output_size, pooler.sampling_ratio) for name, pooler in poolers.items()}
    for name, stand_in in counted.items():
        model.set_submodule(name, stand_in)
    images = torch.empty(1, 3, *size_hw, device="meta")
    sizes_hw = torch.empty(1, 2, dtype=torch.int64, device="meta")
    try:
        # In training mode: without gradients attention may take a fused path that the counter does not know.
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model.train().forward_shapes(images, sizes_hw)
    finally:
        for name, pooler in poolers.items():
            model.set_submodule(name, pooler)
    return int(counter.get_total_flops()), sum(stand_in.flops for stand_in in counted.values())


def _is_roi_pooler(module: Any) -> bool:
    return hasattr(module, "sampling_ratio") and hasattr(module, "output_size")


class _CountedPooling(nn.Module):
    """In place of RoI pooling, whose shapes depend on the boxes' values, which the meta device does not have.

    Attributes:
        flops: of all calls. A pooled value is a weighted sum of the 4 pixels around each of its samples.
    """

    def __init__(self, output_size: int, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size, self.sampling_ratio = output_size, sampling_ratio
        self.flops = 0

    def forward(self, maps: Sequence[Tensor], boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps (N, C, h, w) and boxes (N, P, 4) to (N * P, C, S, S) without values."""
        num_boxes = boxes_xyxy_abs.shape[0] * boxes_xyxy_abs.shape[1]
        pooled = maps[0].new_empty(num_boxes, maps[0].shape[1], self.output_size, self.output_size)
        self.flops += 2 * 4 * self.sampling_ratio**2 * pooled.numel()
        return pooled
