"""The strict part of the configuration: every key without a ``_target_``, with its type and range.

No defaults: YAML is their only home. Nodes with a ``_target_`` are ``Any`` here; they are checked against the
constructor's signature (``experiments.config.targets``).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
import typing
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from sparse_rcnn.pixel_range import checked_pixel_range

# Paths of the user's, in which a leading ~ is the home folder (``experiments.config.validation``).
PATH_KEYS = (
    "runs_root", "data.root", "data.train.annotations", "data.train.images", "data.val.annotations",
    "data.val.images", "weights.backbone", "weights.detector",
)  # fmt: skip
_MORE_TEXTS = re.compile(r"hydra\.(?:run|sweep)\.(?:dir|subdir)")


def _at_least(low: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass
class TrainConfig:
    """The loop. ``batch_size`` is global: whatever the number of processes and micro-batches, the step is the same."""

    batch_size: int = MISSING
    reference_batch_size: int = MISSING  # of which optim.lr is the rate
    lr_scaling: str = MISSING  # none | sqrt | linear in batch_size / reference_batch_size
    backbone_lr_multiplier: float = MISSING
    lr_multipliers: dict[str, float] = MISSING  # of parameters that have the key in their names, as whole components
    clip_norm: float | None = MISSING  # of the gradient of the whole model; null: no clipping
    ema_decay: float | None = MISSING  # null: no moving average; else it is what gets evaluated and saved
    precision: str = MISSING  # fp32 | bf16 (matching and losses stay float32)
    device: str = MISSING  # auto | cpu | cuda
    num_micro_batches: int = MISSING  # gradient accumulation, per process
    channels_last: bool = MISSING
    activation_checkpointing: bool = MISSING  # recompute each stage backwards: less memory, same numbers
    compile: str = MISSING  # none | head | model, by torch.compile; evaluations run uncompiled
    log_every: int = MISSING  # steps
    checkpoint_every: int | None = MISSING  # steps; null: only at the end and on a stop request

    def __post_init__(self) -> None:
        _at_least(1, batch_size=self.batch_size, reference_batch_size=self.reference_batch_size)
        _at_least(1, num_micro_batches=self.num_micro_batches, log_every=self.log_every)
        _at_least(1, checkpoint_every=self.checkpoint_every)
        _at_least(0, backbone_lr_multiplier=self.backbone_lr_multiplier)
        for name, value in self.lr_multipliers.items():
            if value < 0:
                raise ValueError(f"lr_multipliers.{name} must be at least 0, got {value}")
        _one_of("lr_scaling", self.lr_scaling, ("none", "sqrt", "linear"))
        _one_of("precision", self.precision, ("fp32", "bf16"))
        _one_of("compile", self.compile, ("none", "head", "model"))
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be above 0 or null, got {self.clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be within 0 and 1 (excluded) or null, got {self.ema_decay}")


@dataclass
class EvalConfig:
    """Evaluation during training and at its end."""

    every_epochs: int | None = MISSING  # null: only at the end
    batch_size: int = MISSING  # per process
    backend: str = MISSING  # hotcoco | pycocotools, for evaluations during training; the last one is pycocotools'
    max_dets: list[int] = MISSING  # detections of a class in an image that count; 100 and 300 are always evaluated
    num_pictures: int = MISSING  # validation images drawn in detections.png and kept as views
    picture_score_threshold: float = MISSING  # of the picture alone: the evaluation has none

    def __post_init__(self) -> None:
        _at_least(1, every_epochs=self.every_epochs, batch_size=self.batch_size)
        _at_least(0, num_pictures=self.num_pictures, picture_score_threshold=self.picture_score_threshold)
        _one_of("backend", self.backend, ("hotcoco", "pycocotools"))
        few = [number for number in self.max_dets if number <= 10 and number not in (1, 10)]
        if few:
            raise ValueError(
                f"max_dets must be numbers above 10 (and 1 and 10, which are always counted), got {few[0]}"
            )


@dataclass
class SplitConfig:
    annotations: str = MISSING  # COCO instances JSON
    images: str = MISSING  # folder that file_name is relative to
    max_images: int | None = MISSING  # only the first so many, by id

    def __post_init__(self) -> None:
        _at_least(1, max_images=self.max_images)


@dataclass
class DataConfig:
    name: str = MISSING
    root: str | None = MISSING
    num_classes: int | None = MISSING  # null: as many as the annotation file has categories
    drop_degenerate_boxes: bool = MISSING  # boxes without area: drop them with a warning, or refuse the file
    excluded_categories: list[Any] = MISSING  # names or ids of categories that are left out with their boxes
    skip_unreadable: bool = MISSING  # leave out pictures that cannot be read, or end with an error
    num_workers: int = MISSING  # loader processes per training process; results do not depend on it
    cache_images: bool = MISSING  # decoded images stay in memory, once per loader process
    generator: Any = MISSING  # makes the data in root, if it is not there
    train: SplitConfig = MISSING
    val: SplitConfig = MISSING

    def __post_init__(self) -> None:
        _at_least(1, num_classes=self.num_classes)
        _at_least(0, num_workers=self.num_workers)


@dataclass
class CropScaleConfig:
    """The paper's random crop in the scale of an input; read by ``crop=random``."""

    short_sides: list[int] = MISSING
    min_size: int = MISSING
    max_size: int = MISSING


@dataclass
class InputConfig:
    """Files to pixels, and the transforms of the images: ``train`` random, ``eval`` fixed."""

    pixel_range: Any = MISSING  # auto | uint8 | uint12 | uint16 | float | [low, high], of files of more than 8 bits
    max_megapixels: float | None = MISSING  # larger pictures are refused; null: none are

    train: Any = MISSING
    eval: Any = MISSING
    crop_scale: CropScaleConfig = MISSING

    def __post_init__(self) -> None:
        checked_pixel_range(self.pixel_range)
        if self.max_megapixels is not None and self.max_megapixels <= 0:
            raise ValueError(f"max_megapixels must be above 0 or null, got {self.max_megapixels}")


@dataclass
class ProposalScaleConfig:
    """Anchors, samples and proposals of an image, of detectors with a region proposal network."""

    anchor_sizes: list[float] = MISSING  # of p2..p6
    num_sampled_anchors: int = MISSING
    num_pre_nms_training: int = MISSING
    num_pre_nms_testing: int = MISSING
    num_post_nms_training: int = MISSING
    num_post_nms_training_cascade: int = MISSING  # twice as many in the published recipe
    num_post_nms_testing: int = MISSING
    num_sampled_rois: int = MISSING


@dataclass
class ScaleConfig:
    """What the paper's sizes are in a recipe; everything that has one reads it here."""

    dim_feedforward: int = MISSING
    dim_feedforward_narrow: int = MISSING  # where a paper has half of it
    single_map_level: int = MISSING  # of the map of a detector that reads one alone; its stride is 2^level
    norm_first: bool = MISSING  # of DETR's layers
    dim_dynamic: int = MISSING
    sampling_ratio: int = MISSING  # of RoI pooling
    dim_fc: int = MISSING
    tower_weight_std: float = MISSING  # of the convolutions of RetinaNet's head before training
    small_widths: list[int] = MISSING  # channels of backbone=small
    num_proposals: dict[str, int] = MISSING  # paper_100, paper_300, paper_500
    proposals: ProposalScaleConfig = MISSING
    length: dict[str, int] = MISSING  # of a training of 300 and 500 epochs: paper_300, paper_500
    length_unit: str = MISSING  # steps | epochs
    milestones: dict[str, list[float]] = MISSING  # of its schedule, likewise


@dataclass
class DetectorConfig:
    """The detector that is trained, and the axes of the ablations that it has (``experiments.config.axes``)."""

    name: str = MISSING
    axes: list[str] = MISSING


@dataclass
class WeightsConfig:
    backbone: str | None = MISSING  # torchvision's name of weights, or a file
    detector: str | None = MISSING  # a weights file of this project, or a run directory, to start from
    strict: bool = MISSING  # all of it has to fit, classes by their order; false: take all that fits, classes by name

    def __post_init__(self) -> None:
        if self.backbone is not None and self.detector is not None:
            advice = "a detector brings its backbone: set weights.backbone=null"
            raise ValueError(f"backbone and detector are both set; {advice}")


@dataclass
class LogConfig:
    progress: bool = MISSING  # a bar with loss, lr, img/s and the time left
    writers: Any = MISSING  # name to a node with a _target_, see sparse_rcnn.runlog.Writer


@dataclass
class AlertsConfig:
    """A shell command that gets an event as JSON on its standard input (``experiments.tracking.alerts``)."""

    command: str | None = MISSING  # null: none
    timeout: float = MISSING  # seconds, after which it is ended

    def __post_init__(self) -> None:
        if self.command is not None and not self.command.strip():
            raise ValueError("command is empty: give a shell command, or null for none")
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be above 0, got {self.timeout}")


@dataclass
class Config:
    """Everything a run is made of."""

    experiment_name: str = MISSING
    recipe_name: str = MISSING
    seed: int = MISSING
    runs_root: str = MISSING
    detector: DetectorConfig = MISSING
    num_stages: int | None = MISSING  # null, as the next two: the detector does not have it
    num_proposals: int | None = MISSING
    hidden_dim: int = MISSING
    dropout: float | None = MISSING
    scale: ScaleConfig = MISSING
    model: Any = MISSING
    criterion: Any = MISSING
    optim: Any = MISSING
    schedule: Any = MISSING
    train: TrainConfig = MISSING
    eval: EvalConfig = MISSING
    data: DataConfig = MISSING
    input: InputConfig = MISSING
    weights: WeightsConfig = MISSING
    log: LogConfig = MISSING
    alerts: AlertsConfig = MISSING

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        _at_least(1, num_stages=self.num_stages, num_proposals=self.num_proposals, hidden_dim=self.hidden_dim)
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be within 0 (included) and 1 (excluded), got {self.dropout}")


@functools.cache  # Hydra 1.4 warns where a name is stored twice
def register() -> None:
    """Make the schema known to Hydra under the name that conf/train.yaml lists first, and its ``user_path``."""
    ConfigStore.instance().store(name="schema", node=Config)
    register_resolvers()


def register_resolvers() -> None:
    """Make ``${user_path:...}`` known: a path with the home folder for a leading ``~``."""
    # Before OmegaConf 2.4 `register_resolver` is an older one; from then on the other name is deprecated.
    takes_replace = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    register_resolver: Any = OmegaConf.register_resolver if takes_replace else OmegaConf.register_new_resolver
    register_resolver("user_path", _expand_home, replace=True)


def _expand_home(path: Any) -> str:
    return os.path.expanduser(str(path))


def is_text(key: str) -> bool:
    """Whether the values of a key are texts, paths among them, and nothing else."""
    return key in _text_keys(Config) or _MORE_TEXTS.fullmatch(key) is not None


@functools.cache
def _text_keys(node: type) -> frozenset[str]:
    keys: set[str] = set()
    for name, annotation in typing.get_type_hints(node).items():
        if dataclasses.is_dataclass(annotation):
            assert isinstance(annotation, type)
            keys |= {f"{name}.{key}" for key in _text_keys(annotation)}
        elif annotation in (str, str | None):
            keys.add(name)
    return frozenset(keys)
