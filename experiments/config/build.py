"""From the checked configuration to objects: the one place that calls ``instantiate``."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from experiments.config.targets import ConfigError, locate
from experiments.config.validation import instantiate_options
from experiments.config.weights import check_weights, load_weights
from sparse_rcnn.criterion import Criterion
from sparse_rcnn.data.annotations import CocoAnnotations, no_boxes
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.findings import DataWarning, shortened
from sparse_rcnn.data.label_space import plain_name, without_foreign_roots
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.ema import MovingAverage
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.optim import parameter_groups, scale_lr
from sparse_rcnn.pixel_range import checked_pixel_range
from sparse_rcnn.runlog import Writer
from sparse_rcnn.schedule import WarmupMultiStep
from sparse_rcnn.weights import ModelCard

Config = dict[str, Any]


def build(config: Config, path: str, **injected: Any) -> Any:
    """Instantiate the node at a dotted path.

    Raises:
        ConfigError: the constructor refuses a value; names the node.
    """
    node: Any = config
    for key in path.split("."):
        node = node[key]
    try:
        return instantiate(copy.deepcopy(node), _convert_="all", **instantiate_options(node), **injected)
    except Exception as error:  # what a constructor raises: 1.3 wraps it and says the key, 1.4 notes that on it
        lines = str(error).splitlines()
        inner = [
            line.split(":", 1)[1].strip()
            for line in (*lines, *getattr(error, "__notes__", ()))
            if line.startswith("full_key:")
        ]
        reason = (error.__cause__ or lines[0]) if isinstance(error, InstantiationException) else error
        raise ConfigError(f"{'.'.join([path, *inner])}: {reason}") from error


def dry_build(config: Config) -> None:
    """Build everything that needs no data, the model on the meta device, so that bad values fail before data load."""
    trial = with_num_classes(config, 1)
    with torch.device("meta"):
        model = build(trial, "model")
    _check_kind(trial, model, build_criterion(trial))
    build_optimizer(trial, model)
    build(trial, "schedule")
    build_writers(trial, Path(trial["runs_root"]), "")
    build(trial, "input.train")
    build(trial, "input.eval")
    if trial["data"]["generator"] is not None:
        build(trial, "data.generator")
    check_weights(trial, model)


def _check_kind(config: Config, model: Detector, criterion: Criterion) -> None:
    """Refuse a criterion that cannot read the detector's output."""
    kinds = {getattr(part, "output_kind", "") for part in (model, criterion)} - {""}
    if len(kinds) > 1:
        names = [str(config[key]["_target_"]).rpartition(".")[2] for key in ("criterion", "model")]
        raise ConfigError(f"criterion: {names[0]} does not read the output of {names[1]}; detector=... chooses both")


def check_batch_size(config: Config, world_size: int) -> None:
    """Refuse a global batch that the processes and their micro-batches cannot share evenly."""
    train = config["train"]
    parts = world_size * train["num_micro_batches"]
    if train["batch_size"] % parts:
        raise ConfigError(
            f"train.batch_size: {train['batch_size']} is not a multiple of {parts}, the number of processes "
            f"({world_size}) times train.num_micro_batches ({train['num_micro_batches']})"
        )


def with_num_classes(config: Config, num_classes: int) -> Config:
    """The configuration completed by the one value that only the data set knows.

    It goes to the detector, or to its stage where that is the part that takes it.
    """
    model = config["model"]
    if "num_classes" in inspect.signature(locate(model["_target_"], "model")).parameters:
        model = {**model, "num_classes": num_classes}
    elif "stage" not in model:
        raise ConfigError(f"model: {model['_target_']} takes no num_classes, and there is no model.stage that would")
    else:
        model = {**model, "stage": {**model["stage"], "num_classes": num_classes}}
    return {**config, "data": {**config["data"], "num_classes": num_classes}, "model": model}


def build_datasets(config: Config) -> tuple[CocoDetection, CocoDetection]:
    """Training images, and validation images with the same labels.

    Raises:
        UserError: a file cannot be used, there is nothing to learn or to score, or the classes differ.
    """
    data = config["data"]
    train, val = (
        CocoDetection(
            annotations=data[split]["annotations"],
            images=data[split]["images"],
            transforms=build(config, f"input.{transform}"),
            drop_degenerate_boxes=data["drop_degenerate_boxes"],
            seed=config["seed"],
            max_images=data[split]["max_images"],
            cache_images=data["cache_images"],
            excluded_categories=data["excluded_categories"],
            skip_unreadable=data["skip_unreadable"],
            pixel_range=config["input"]["pixel_range"],
            max_megapixels=config["input"]["max_megapixels"],
        )
        for split, transform in (("train", "train"), ("val", "eval"))
    )
    if (unknown := unknown_exclusion(train.coco, val.coco)) is not None:
        raise UserError(unknown)
    for dataset, purpose in ((train, "learn from"), (val, "score")):
        if not dataset.coco.num_objects.any():
            raise no_boxes(dataset.coco, purpose)
    own = without_foreign_roots(val.coco, train.categories)
    try:
        val = val.in_label_space_of(train.categories, str(train.annotations_path))
    except DataError as error:
        raise UserError(f"{error}{advice_to_exclude(own, train.coco)}") from error
    if (renumbered := numbered_otherwise(own, train.coco)) is not None:
        warnings.warn(renumbered, DataWarning, stacklevel=2)
    if data["num_classes"] not in (None, train.num_classes):
        raise UserError(
            f"data.num_classes is {data['num_classes']}, {data['train']['annotations']} has {train.num_classes} "
            "categories; set data.num_classes=null to take the file's"
        )
    return train, val


def unknown_exclusion(train: CocoAnnotations, val: CocoAnnotations) -> str | None:
    """The words for a category to leave out that neither split has; None where there is none."""
    for name in train.unknown_exclusions:
        if name in val.unknown_exclusions:
            return (
                f"data.excluded_categories: {name!r} is not a category of {train.source} "
                f"({shortened(train.class_names, 8)})"
            )
    return None


def numbered_otherwise(val: CocoAnnotations, train: CocoAnnotations) -> str | None:
    """The words for a validation set of matching classes with other ids; None where the ids are the same."""
    ids = {(category["id"], plain_name(category["name"])) for category in train.categories}
    if all((category["id"], plain_name(category["name"])) in ids for category in val.categories):
        return None
    return f"{val.source}: classes are numbered otherwise than in {train.source}; matched by name"


def advice_to_exclude(val: CocoAnnotations, train: CocoAnnotations) -> str:
    """The way out where the validation set has classes that the training set lacks; empty where it has none."""
    extra = [name for name in val.class_names if name not in train.class_names]
    # Where the training set has other names in their place, they are most likely the same classes.
    is_larger = extra and set(train.class_names) <= set(val.class_names)
    if not is_larger or not all(re.fullmatch(r"[\w -]+", name) for name in extra):
        return ""
    return f"; data.excluded_categories=[{','.join(extra[:5])}{',...' if len(extra) > 5 else ''}] leaves classes out"


def build_model(config: Config, dataset: CocoDetection, is_main: bool = True) -> Detector:
    """The detector with its card and the pretrained weights asked for; the main process prints the part that fits."""
    model: Detector = build(config, "model")
    evaluation = config["input"]["eval"]
    model.card = ModelCard(
        architecture=config["model"],
        categories=[{"id": c["id"], "name": c["name"]} for c in dataset.categories],
        short_side=evaluation["short_side"],
        max_long_side=evaluation["max_long_side"],
        pixel_range=checked_pixel_range(config["input"]["pixel_range"]),
    )
    model.activation_checkpointing = config["train"]["activation_checkpointing"]
    load_weights(config, model, is_main)
    return model


def build_criterion(config: Config) -> Criterion:
    criterion: Criterion = build(config, "criterion")
    return criterion


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    train, optim = config["train"], config["optim"]
    lr = scale_lr(optim["lr"], train["lr_scaling"], train["batch_size"], train["reference_batch_size"])
    make = build(config, "optim")
    try:
        groups = parameter_groups(model, lr, train["backbone_lr_multiplier"], train["lr_multipliers"])
    except ValueError as error:
        raise ConfigError(f"train.{error}") from error
    try:
        return make(groups)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"optim: {error}") from error


def build_schedule(config: Config) -> WarmupMultiStep:
    schedule: WarmupMultiStep = build(config, "schedule")
    return schedule


def build_ema(config: Config, model: nn.Module) -> MovingAverage | None:
    decay = config["train"]["ema_decay"]
    return None if decay is None else MovingAverage(model, decay)


def build_writers(config: Config, run_path: Path, run_id: str) -> list[Writer]:
    """The writers of ``log.writers``; each gets the run's directory, id and configuration.

    Building one starts nothing: it begins with its ``started``.
    """
    writers = []
    for name in config["log"]["writers"]:
        make = build(config, f"log.writers.{name}", _partial_=True)  # Hydra would instantiate what is in a config
        try:
            writers.append(make(run_path=run_path, run_id=run_id, config=config))
        except ValueError as error:
            raise ConfigError(f"log.writers.{name}: {error}") from error
    return writers
