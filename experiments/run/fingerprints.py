"""The content of data and weights behind the paths of a configuration, which is part of a run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.config.build import build
from sparse_rcnn.rundir.identity import file_fingerprint, run_identity


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
    for name, weights in config["weights"].items():
        if weights is not None:
            keys[f"weights.{name}"] = file_fingerprint(weights) if Path(weights).is_file() else weights
    return keys


def run_identity_of(config: dict[str, Any]) -> str:
    """The identity of a checked configuration, the content of its data and weights included."""
    return run_identity(config, content_keys(config))


def stand_in_identity(config: dict[str, Any]) -> str:
    """The identity of a configuration with fixed names in place of the user's files; nothing is read."""
    if config["data"]["generator"] is not None:
        data = build(config, "data.generator").key()
    else:
        data = {"train": "training annotations", "val": "validation annotations"}
    weights = {f"weights.{name}": value for name, value in config["weights"].items() if value is not None}
    return run_identity(config, {"data": data, **weights})
