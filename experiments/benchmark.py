"""python -m experiments.benchmark: speed as ratios, measured side by side in one process."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.cli.mistakes import run_cli
from sparse_rcnn.rundir import layout


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=__doc__)
    parser.add_argument(
        "what", choices=sorted(BENCHMARKS), help="; ".join(f"{k}: {f.__doc__}" for k, f in BENCHMARKS.items())
    )
    parser.add_argument("--repeats", type=int, default=10, help="timed repetitions of each side (default 10)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own)")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    run_cli(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, cpu", file=sys.stderr)
    sides = BENCHMARKS[arguments.what]()
    # Interleaved, so that a slow moment of the machine falls on all sides.
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    for _ in range(arguments.repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    first = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:40s} {1000 * median:9.1f} ms   {first / median:5.2f}x the speed of the first")


def roi() -> dict[str, Callable[[], Any]]:
    """RoI pooling forward and backward at the size of recipe=mini: torchvision's RoIAlign against one gather."""
    import torch

    from sparse_rcnn.allocator import keep_freed_memory
    from sparse_rcnn.roi_pooler import GatherRoIAlign, MultiLevelRoIAlign

    keep_freed_memory()
    torch.manual_seed(0)
    channels, num_images, num_proposals = 128, 16, 20
    maps = [torch.randn(num_images, channels, 32 >> i, 32 >> i).requires_grad_() for i in range(4)]
    centres, sides = (
        torch.rand(num_images, num_proposals, 2) * 128,
        8 + 100 * torch.rand(num_images, num_proposals, 2),
    )
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=-1)
    gradient = torch.randn(num_images * num_proposals, channels, 7, 7)

    def side(pooler: torch.nn.Module) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(pooler(maps, boxes), maps, gradient, allow_unused=True)

    return {
        "roi_pooler=roi_align": side(MultiLevelRoIAlign(7, 2)),
        "roi_pooler=gather": side(GatherRoIAlign(7, 2)),
    }


def evaluation() -> dict[str, Callable[[], Any]]:
    """COCO evaluation of 500 images with 100 detections each: pycocotools against hotcoco."""
    import numpy as np

    from sparse_rcnn.detection_table import DetectionTable
    from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth

    rng = np.random.default_rng(0)
    num_images, num_detections, num_classes = 500, 100, 20
    categories = [{"id": i + 1, "name": f"class_{i}"} for i in range(num_classes)]
    annotations = [
        {"id": k + 1, "image_id": k % num_images, "category_id": int(rng.integers(num_classes)) + 1,
         "bbox": [*rng.uniform(0, 400, 2).tolist(), *rng.uniform(10, 200, 2).tolist()], "iscrowd": 0}
        for k in range(7 * num_images)
    ]  # fmt: skip
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(num_images)]
    truth = CocoGroundTruth({"images": images, "annotations": annotations, "categories": categories})
    count = num_images * num_detections
    table = DetectionTable(
        np.repeat(np.arange(num_images), num_detections),
        rng.integers(1, num_classes + 1, count),
        np.concatenate((rng.uniform(0, 400, (count, 2)), rng.uniform(10, 200, (count, 2))), axis=1),
        rng.uniform(size=count),
    )
    evaluators = {backend: CocoEvaluator(truth, backend) for backend in ("pycocotools", "hotcoco")}
    return {f"eval.backend={name}": partial(e.evaluate, table) for name, e in evaluators.items()}


def logging() -> dict[str, Callable[[], Any]]:
    """50 training steps of recipe=mini: without W&B, without it once more, and with W&B offline."""
    import tempfile
    from pathlib import Path

    from experiments.config.build import build_datasets, with_num_classes
    from experiments.config.rows import compose_row
    from experiments.run.embedded_data import ensure_data
    from experiments.run.training import build_training
    from experiments.tracking.wandb_writer import WandbWriter
    from sparse_rcnn.allocator import keep_freed_memory
    from sparse_rcnn.distributed import init_world
    from sparse_rcnn.runlog import JsonlWriter, Writer

    keep_freed_memory()
    folder = Path(tempfile.mkdtemp(prefix="sparse_rcnn_benchmark_"))
    config = compose_row("mini", "baseline", ["train.device=cpu", "train.channels_last=true"])
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


BENCHMARKS: dict[str, Callable[[], dict[str, Callable[[], Any]]]] = {
    "roi": roi,
    "evaluation": evaluation,
    "logging": logging,
}

if __name__ == "__main__":
    main()
