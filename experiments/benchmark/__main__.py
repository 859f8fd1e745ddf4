"""python -m experiments.benchmark: where the time goes, as shares of the whole and of the machine's own peak."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.mistakes import run_cli
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.places import user_path

if TYPE_CHECKING:
    from experiments.benchmark.report import Row
    from experiments.benchmark.workload import Setting, Workload

BENCHMARKS = {
    "model": "the forward pass of a row in evaluation, by part of the model",
    "step": "a training step of a row: forward by part, criterion, backward, update",
    "data": "training samples: decoding, augmentation, collation",
    "evaluation": "COCO evaluation of 500 images by part: pycocotools against hotcoco",
    "logging": "50 training steps of recipe=mini without W&B, once more without it, and with W&B offline",
    "textbook": "the paper's detector against a textbook's, which is in a checkout alone",
    "fps": "frames per second of a row, a run or a weights file (--weights), one image at a time, with and without "
    "reading, on a folder of images (--images) or the validation images of the row or run",
}
DEFAULT = ("model", "step", "data", "evaluation")
SIZES_HW = {"paper": (800, 1066)}
SMALL_SIZE_HW = (128, 160)


def main() -> None:
    """Parse the command line, and measure or compare."""
    lines = "\n".join(f"  {name:11s} {text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=f"{__doc__}\n\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="BENCHMARK", help=f"of the above; without one: {', '.join(DEFAULT)}")
    add("--recipe", default="mini", help="of the row (default mini)")
    add("--row", default="baseline", help="a file of conf/experiment (default baseline)")
    add("--size", metavar="HxW", help="of the images in pixels (default 800x1066 with --recipe paper, else 128x160)")
    add("--batch", type=int, help="images at a time (default: 1 in model, 2 in step)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="an override, of every setting")
    add(
        "--setting", metavar="NAME[:KEY=VALUE,...]", action="append", default=[],
        help="a side with overrides of its own; may be given again (default: float32 and "
        "bfloat16:train.precision=bf16)",
    )  # fmt: skip
    add("--repeats", type=int, default=10, help="timed passes of each side (default 10)")
    add("--threads", type=int, help="torch threads (default: torch's own)")
    add("--device", default="auto", help="auto, cpu or cuda (default auto)")
    add("--only", metavar="NAME", help="of textbook: what has this in its name, such as criterion or '300 proposals'")
    add("--weights", type=user_path, metavar="PATH", help="of fps: a run directory or weights file in place of a row")
    add("--images", type=user_path, metavar="FOLDER", help="of fps: image files to measure on")
    add("--max-images", metavar="N", type=int, default=100, help="of fps: at most so many, the first (default 100)")
    add("--json", type=Path, metavar="FILE", help="write all samples, for --compare")
    add("--markdown", type=Path, metavar="FILE", help="write the table")
    add(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="two files of --json: which parts differ beyond noise"
    )
    add_trust_option(parser)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    if arguments.compare and arguments.names:
        parser.error("--compare reads two reports and measures nothing: give it without a benchmark")
    if arguments.max_images < 1:
        parser.error("--max-images must be at least 1")
    if "fps" not in arguments.names and (arguments.images or arguments.weights):
        parser.error("--images and --weights are of fps alone")
    run_cli(lambda: _compare(arguments) if arguments.compare else _measure(arguments))


def _compare(arguments: argparse.Namespace) -> None:
    from experiments.benchmark.compare import show
    from experiments.benchmark.report import Report

    show(*(Report.read(path) for path in arguments.compare))


def _measure(arguments: argparse.Namespace) -> None:
    import torch

    from experiments.benchmark.machine import machine
    from experiments.benchmark.report import Report
    from experiments.cli.naming import init_world_on
    from sparse_rcnn.allocator import keep_freed_memory

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = init_world_on(arguments.device, "--device").device
    settings, size_hw = _settings(arguments.setting), _size_hw(arguments)
    rows = [row for name in arguments.names or DEFAULT for row in _rows(name, arguments, settings, size_hw, device)]
    report = Report(machine(device), rows)
    report.show()
    if arguments.json:
        report.write_json(arguments.json)
    if arguments.markdown:
        from sparse_rcnn.atomic import write_bytes_atomic

        write_bytes_atomic(arguments.markdown, report.markdown().encode())


def _rows(
    name: str, arguments: argparse.Namespace, settings: list[Setting], size_hw: tuple[int, int], device: Any
) -> list[Row]:
    from experiments.benchmark.data import data_rows
    from experiments.benchmark.evaluation import evaluation_rows
    from experiments.benchmark.forward import model_rows
    from experiments.benchmark.measure import interleaved, timed
    from experiments.benchmark.report import Row
    from experiments.benchmark.step import step_rows
    from experiments.benchmark.textbook import textbook_rows
    from experiments.benchmark.with_wandb import logging
    from experiments.benchmark.workload import Workload

    overrides, repeats = tuple(arguments.set), arguments.repeats

    def workload(batch_size: int) -> Workload:
        size = arguments.batch or batch_size
        return Workload(arguments.recipe, arguments.row, overrides, size_hw, size)

    if name == "model":
        return model_rows(workload(1), settings, device, repeats)
    if name == "step":
        return step_rows(workload(2), settings, device, repeats)
    if name == "data":
        return data_rows(arguments.recipe, arguments.row, overrides, repeats)
    if name == "evaluation":
        return evaluation_rows(repeats)
    if name == "textbook":
        return textbook_rows(overrides, settings, device, repeats, arguments.only)
    if name == "fps":
        return _fps(arguments, workload(1), settings, device)
    measured = interleaved({key: timed(run) for key, run in logging().items()}, repeats)
    return [Row(name, key, part, seconds) for key, parts in measured.items() for part, seconds in parts.items()]


def _fps(arguments: argparse.Namespace, workload: Workload, settings: list[Setting], device: Any) -> list[Row]:
    from experiments.benchmark.fps import row_fps, summary, weights_fps

    images, max_images = arguments.images, arguments.max_images
    if arguments.weights is None:
        rows = row_fps(workload, settings, device, images, max_images)
    else:
        with trusted_modules(arguments) as trusted:
            rows = weights_fps(arguments.weights, trusted, settings, device, images, max_images)
    for line in summary(rows):
        print(line)
    return rows


def _settings(given: list[str]) -> list[Setting]:
    from experiments.benchmark.workload import DEFAULT_SETTINGS, Setting

    settings = []
    for text in given:
        name, _, overrides = text.partition(":")
        settings.append(Setting(name, tuple(part for part in overrides.split(",") if part)))
    return settings or list(DEFAULT_SETTINGS)


def _size_hw(arguments: argparse.Namespace) -> tuple[int, int]:
    from sparse_rcnn.errors import UserError

    if arguments.size is None:
        return SIZES_HW.get(arguments.recipe, SMALL_SIZE_HW)
    height, _, width = arguments.size.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UserError(f"--size must be HEIGHTxWIDTH in pixels, such as 800x1066, got {arguments.size!r}")
    return int(height), int(width)


if __name__ == "__main__":
    main()
