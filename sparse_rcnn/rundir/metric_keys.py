"""Keys of the numbers in metrics.jsonl, eval/ and results.json: ``split/group/name``."""

from __future__ import annotations

import re
from collections.abc import Iterable

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")

BBOX = "bbox"  # the group of the COCO numbers

LOSS = "train/loss/"  # begins the keys of losses
LOSS_TOTAL = f"{LOSS}total"
LEARNING_RATE = "train/optim/lr"
GRAD_NORM = "train/optim/grad_norm"
DATA_FRACTION = "train/speed/data_fraction"
MAX_ALLOCATED_GIB = "train/memory/max_allocated_gib"
IMAGES_PER_SECOND = "train/speed/images_per_second"
TRAIN_SECONDS = "train/time/seconds"
NUM_PARAMETERS = "model/size/num_parameters"
NUM_TRAINABLE_PARAMETERS = "model/size/num_trainable_parameters"
FORWARD_GFLOPS = "model/cost/forward_gflops"
ROI_POOLING_GFLOPS = "model/cost/roi_pooling_gflops"
FPS = "model/speed/fps"

_OF_STAGE = re.compile(r"(?:train|val)/stage_\d{1,3}/.+")
_STAGE_AP = re.compile(r"val/stage_(\d{1,3})/AP")


def bbox(name: str, split: str = "val") -> str:
    """The key of one of the detector's twelve COCO numbers."""
    return f"{split}/{BBOX}/{name}"


def bbox_at(max_dets: int, split: str = "val") -> str:
    """The split and group of the COCO numbers at another number of detections of a class in an image."""
    return f"{split}/{BBOX}_maxdets{max_dets}"


def stage_group(index: int, split: str = "val") -> str:
    """The split and group of the COCO numbers of a stage's own output."""
    return f"{split}/stage_{index}"


def stage(index: int, name: str, split: str = "val") -> str:
    """The key of one of the twelve COCO numbers of a stage's own output."""
    return f"{stage_group(index, split)}/{name}"


def loss(part: str) -> str:
    """The key of a part of the loss, summed over stages."""
    return f"{LOSS}{part}"


def stage_loss(index: int, part: str) -> str:
    """The key of a part of a stage's loss."""
    return f"train/stage_{index}/{part}"


def is_of_stage(key: str) -> bool:
    """Whether a number is one of a single stage, in training or validation."""
    return _OF_STAGE.fullmatch(key) is not None


def stages_in(keys: Iterable[str]) -> list[int]:
    """The stages whose AP is among some keys, ascending."""
    return sorted(int(match[1]) for key in keys if (match := _STAGE_AP.fullmatch(key)))


AP = bbox("AP")
