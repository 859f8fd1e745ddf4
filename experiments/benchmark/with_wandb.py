"""Whole calls against each other: training with and without W&B."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sparse_rcnn.rundir import layout


def logging() -> dict[str, Callable[[], Any]]:
    """50 training steps of recipe=mini: without W&B, without it once more, and with W&B offline."""
    import tempfile
    from pathlib import Path

    from experiments.config.build import build_datasets, with_num_classes
    from experiments.config.rows import compose_row
    from experiments.run.embedded_data import ensure_data
    from experiments.run.training import build_training
    from experiments.tracking.wandb_writer import WandbWriter
    from sparse_rcnn.distributed import init_world
    from sparse_rcnn.runlog import JsonlWriter, Writer

    folder = Path(tempfile.mkdtemp(prefix="sparse_rcnn_benchmark_"))
    config = compose_row("mini", "baseline", ["train.device=cpu"])
    ensure_data(config)
    train_set, val_set = build_datasets(config)
    complete = with_num_classes(config, train_set.num_classes)
    training = build_training(complete, train_set, val_set, init_world("cpu"))
    options = {key: value for key, value in config["log"]["writers"]["wandb"].items() if key != "_target_"}
    wandb_writer = WandbWriter(**{**options, "mode": "offline"}, run_path=folder, run_id="benchmark", config=complete)
    wandb_writer.started()
    jsonl = JsonlWriter(folder / layout.METRICS)
    sides: dict[str, list[Writer]] = {
        "log=none": [jsonl],
        "log=none, again": [jsonl],
        "log=wandb": [jsonl, wandb_writer],
    }

    def train(writers: list[Writer]) -> None:
        training.train_to(training.step + 50, writers)

    return {name: partial(train, writers) for name, writers in sides.items()}
