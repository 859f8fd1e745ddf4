"""The configuration, detector, images and targets of a measured forward pass or training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.config.build import build, with_num_classes
from experiments.config.rows import compose_row
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.precision import memory_format
from sparse_rcnn.structures import Targets

NUM_CLASSES = 80
NUM_OBJECTS = 7  # of an image: COCO's mean


@dataclass(frozen=True)
class Setting:
    """A name and the overrides that it stands for."""

    name: str
    overrides: tuple[str, ...] = ()


DEFAULT_SETTINGS = (Setting("float32"), Setting("bfloat16", ("train.precision=bf16",)))


@dataclass(frozen=True)
class Workload:
    """The row, image size and batch of a measurement.

    Attributes:
        recipe, row, overrides: the configuration, to which a setting adds its own overrides.
        size_hw: of the images, unpadded.
        batch_size: images that go through the model at once.
    """

    recipe: str
    row: str
    overrides: tuple[str, ...]
    size_hw: tuple[int, int]
    batch_size: int

    def config(self, setting: Setting, num_classes: int = NUM_CLASSES) -> dict[str, Any]:
        """The complete configuration under a setting, with stand-ins for data that are not named."""
        return with_num_classes(self.row_config(setting, stand_ins=True), num_classes)

    def row_config(self, setting: Setting, stand_ins: bool) -> dict[str, Any]:
        """The row's configuration under a setting, as for a training on its own data."""
        return compose_row(self.recipe, self.row, [*self.overrides, *setting.overrides], stand_ins=stand_ins)

    def model(self, config: dict[str, Any], device: torch.device) -> DetectorModule:
        """The detector with random weights."""
        torch.manual_seed(0)
        model: DetectorModule = build(config, "model")
        return model.to(device).to(memory_format=memory_format(config["train"]["channels_last"]))

    def images(self, model: DetectorModule, device: torch.device) -> tuple[Tensor, Tensor]:
        """A padded batch of noise, and its sizes."""
        divisor = model.size_divisor
        height, width = (-(-side // divisor) * divisor for side in self.size_hw)
        images = torch.randint(0, 256, (self.batch_size, 3, height, width), dtype=torch.uint8)
        sizes_hw = torch.tensor([self.size_hw] * self.batch_size)
        return images.to(device), sizes_hw.to(device)

    def targets(self, device: torch.device) -> Targets:
        """Objects of all sizes."""
        generator = torch.Generator().manual_seed(0)
        scale = torch.tensor([self.size_hw[1], self.size_hw[0]])
        corners = torch.rand(self.batch_size, NUM_OBJECTS, 2, generator=generator) * 0.7 * scale
        sides = (0.02 + 0.28 * torch.rand(self.batch_size, NUM_OBJECTS, 2, generator=generator)) * scale
        labels = torch.randint(0, NUM_CLASSES, (self.batch_size, NUM_OBJECTS), generator=generator)
        boxes = torch.cat((corners, corners + sides), 2)
        return Targets.from_lists(list(boxes), list(labels)).to(device)
