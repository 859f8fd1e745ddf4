"""The content of data and weights behind the paths of a configuration, which is part of a run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.cli.naming import naming
from experiments.config.build import build
from experiments.config.categories import read_categories
from experiments.config.weights import locate_detector_weights
from sparse_rcnn.rundir.identity import file_fingerprint, run_identity
from sparse_rcnn.weights import read_header


def content_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that identify the data and the weights that a configuration points to.

    Raises:
        UserError: a file cannot be read.
    """
    data = config["data"]
    if data["generator"] is not None:
        keys: dict[str, Any] = {"data": build(config, "data.generator").key()}
    else:
        keys = {"data": {split: file_fingerprint(data[split]["annotations"]) for split in ("train", "val")}}
    for name, weights in _weights(config).items():
        path = locate_detector_weights(weights) if name == "detector" else Path(weights)
        keys[f"weights.{name}"] = file_fingerprint(path) if path.is_file() else weights
    if _takes_classes_by_name(config):
        keys["weights.classes"] = "by name"
    return keys


def _weights(config: dict[str, Any]) -> dict[str, str]:
    return {name: config["weights"][name] for name in ("backbone", "detector") if config["weights"][name] is not None}


def _takes_classes_by_name(config: dict[str, Any]) -> bool:
    """Whether the class layers are not those of the weights as they are, as they once were in every run."""
    weights = config["weights"]
    if weights["detector"] is None or weights["strict"]:
        return False
    with naming("weights.detector"):
        _, card = read_header(locate_detector_weights(weights["detector"]))
    return card.class_names != _class_names(config)


def _class_names(config: dict[str, Any]) -> list[str]:
    data = config["data"]
    if data["generator"] is not None and hasattr(generator := build(config, "data.generator"), "categories"):
        return [category["name"] for category in generator.categories()]  # its files may have to be made yet
    return [name for _, name in read_categories(data["train"]["annotations"])]


def run_identity_of(config: dict[str, Any]) -> str:
    """The identity of a checked configuration, the content of its data and weights included."""
    return run_identity(config, content_keys(config))


def stand_in_identity(config: dict[str, Any]) -> str:
    """The identity of a configuration with fixed names in place of the user's files; nothing is read."""
    if config["data"]["generator"] is not None:
        data = build(config, "data.generator").key()
    else:
        data = {"train": "training annotations", "val": "validation annotations"}
    weights = {f"weights.{name}": value for name, value in _weights(config).items()}
    return run_identity(config, {"data": data, **weights})
