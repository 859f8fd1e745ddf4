"""What a configuration points to: the content of data and weights, which is part of a run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.config.build import build
from sparse_rcnn.rundir.identity import file_fingerprint, run_identity


def content_keys(config: dict[str, Any]) -> dict[str, Any]:
    """What identifies the content behind the paths of a configuration: data and weights.

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
