"""python -m experiments.evaluate: COCO AP of a run or a weights file on any data set."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.mistakes import run_cli
from experiments.cli.picture_options import (
    PICTURE_OPTIONS,
    add_picture_options,
    max_megapixels_option,
    pixel_range_option,
)
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir import layout

if TYPE_CHECKING:
    from experiments.run.detection import Computation
    from experiments.run.evaluation_record import Evaluation
    from sparse_rcnn.data.coco import CocoDetection
    from sparse_rcnn.detector_base import Detector
    from sparse_rcnn.distributed import World
    from sparse_rcnn.pixel_range import PixelRange

WIDE = 100  # detections an image that the COCO protocol counts


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate",
        description="Evaluate a detector with the COCO metrics: a run on its own validation images, or any "
        "weights on any data set in COCO format. Also under torchrun.",
    )
    parser.add_argument("path", metavar="PATH", type=user_path, help="run directory or weights file")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--annotations", type=user_path, metavar="JSON", help="COCO annotation file (default: the run's own)"
    )
    data.add_argument("--images", type=user_path, metavar="DIR", help="folder of its images")
    data.add_argument("--max-images", type=int, metavar="N", help="only the first N images by id")
    add_picture_options(data)
    what = parser.add_argument_group("numbers")
    what.add_argument(
        "--backend", choices=("pycocotools", "hotcoco"), default="pycocotools",
        help="pycocotools, the reference (default), or hotcoco, equal and far faster",
    )  # fmt: skip
    what.add_argument(
        "--max-dets-300", action="store_true",
        help="print the numbers at 300 detections as well (always with more than 100 proposals)",
    )  # fmt: skip
    what.add_argument(
        "--max-dets", type=int, nargs="+", default=[], metavar="N",
        help="print the numbers at N detections of a class in an image as well",
    )  # fmt: skip
    what.add_argument("--per-class", action="store_true", help="print AP and AP50 of every class")
    what.add_argument("--all-stages", action="store_true", help="evaluate every stage's own output")
    what.add_argument(
        "--out", type=user_path, metavar="DIR", help="write metrics.json and detections.json (COCO results) there"
    )
    how = parser.add_argument_group("computation (default: as the run, for weights 8, 2 and fp32)")
    how.add_argument("--batch-size", type=int, metavar="N", help="images of a batch on each process")
    how.add_argument("--num-workers", type=int, metavar="N", help="processes that load images")
    how.add_argument("--precision", choices=("fp32", "bf16"))
    how.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add_trust_option(parser)
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Job:
    """What to evaluate and how: the options, completed by the configuration of the run."""

    split: str
    annotations: Path
    images: Path
    max_images: int | None
    drop_degenerate_boxes: bool
    excluded_categories: Sequence[str | int]
    skip_unreadable: bool
    pixel_range: PixelRange | None  # None: that of the model's card
    max_megapixels: float | None
    computation: Computation


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    _check(args)
    from experiments.cli.naming import init_world_on
    from sparse_rcnn.rundir.writer import RunDirectory

    run = RunDirectory(args.path) if (args.path / layout.META).is_file() else None
    job = make_job(args, run.config if run is not None else None)
    from sparse_rcnn.detector_base import Detector

    with trusted_modules(args) as trusted:
        model = Detector.from_pretrained(args.path, trusted)
    with closing(init_world_on(args.device, "--device")) as world:
        if run is not None and job.split == "val":
            with trusted_modules(args) as trusted:
                prepare_own_data(run, job, world, trusted)
        evaluate(args, job, model, world)


def evaluate(args: argparse.Namespace, job: Job, model: Detector, world: World) -> None:
    """Detect, evaluate, print, write."""
    from experiments.cli.naming import naming, naming_weights
    from experiments.run.detection import detect_all
    from experiments.run.evaluation_record import evaluate_stages
    from experiments.run.pictures import readable_pictures
    from experiments.run.result_files import write_detections
    from sparse_rcnn.data.annotations import no_boxes
    from sparse_rcnn.data.coco import CocoDetection
    from sparse_rcnn.data.findings import DataWarning
    from sparse_rcnn.data.transforms import EvalTransform
    from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth
    from sparse_rcnn.rundir.json_files import write_json_atomic

    card = model.card
    assert card is not None
    if not world.is_main:  # rank 0 says it once
        warnings.simplefilter("ignore", DataWarning)
    dataset = CocoDetection(
        job.annotations,
        job.images,
        EvalTransform(card.short_side, card.max_long_side),
        job.drop_degenerate_boxes,
        seed=0,
        max_images=job.max_images,
        excluded_categories=job.excluded_categories,
        skip_unreadable=job.skip_unreadable,
        pixel_range=card.pixel_range if job.pixel_range is None else job.pixel_range,
        max_megapixels=job.max_megapixels,
    )
    if not dataset.coco.num_objects.any():
        command = "python -m experiments.predict PATH --annotations JSON --images DIR --out DIR"
        raise DataError(f"{no_boxes(dataset.coco, 'score')}; {command} writes the detections of such a set")
    with world.together():
        dataset = of_detector(dataset, card.categories, str(args.path))
    dataset = readable_pictures({"val": dataset}, world)["val"]
    with naming("--backend"):
        evaluator = CocoEvaluator(CocoGroundTruth(dataset.coco), args.backend) if world.is_main else None
    started = time.perf_counter()
    with naming_weights(args.path):
        tables = detect_all(model, dataset, world, job.computation, last_only=not args.all_stages)
    if tables is None:
        return
    seconds = time.perf_counter() - started
    assert evaluator is not None
    evaluation = evaluate_stages(
        tables, evaluator, reference=False, all_stages=args.all_stages and model.has_stages, max_dets=args.max_dets
    )
    shown = {*args.max_dets, *([300] if args.max_dets_300 or model.max_detections > WIDE else [])}
    print_metrics(evaluation, f"{args.path} on {job.annotations}", shown, args.per_class)
    speed = len(dataset) / seconds
    elapsed = time.strftime("%H:%M:%S", time.gmtime(seconds))
    print(f"{len(dataset)} images in {elapsed}, {speed:.1f} images/s on {world.device} ({job.computation.precision})")
    if args.out is not None:
        about = {
            "weights": args.path.resolve(),
            "annotations": job.annotations.resolve(),
            "images": job.images.resolve(),
            "num_images": len(dataset),
            "fingerprint": dataset.fingerprint,
            "device": str(world.device),
            "precision": job.computation.precision,
            "images_per_second": round(speed, 3),
        }
        write_detections(args.out / layout.DETECTIONS, tables[-1], dataset.coco)
        write_json_atomic(args.out / "metrics.json", evaluation.to_json(job.split, **about))
        print(f"written: {args.out / 'metrics.json'}, {args.out / 'detections.json'}")


def make_job(args: argparse.Namespace, config: Mapping[str, Any] | None) -> Job:
    """Options and defaults: of the run where ``config`` is its configuration, general ones otherwise.

    Raises:
        UserError: weights alone and no data set.
    """
    own = args.annotations is None
    if config is not None and own:
        data = config["data"]["val"]
    elif own:
        raise UserError(f"{args.path} is not a run directory, so it has no data: give --annotations and --images")
    else:
        data = {"annotations": args.annotations, "images": args.images}
    from experiments.run.detection import Computation

    batch_size = config["eval"]["batch_size"] if config else 8
    num_workers = config["data"]["num_workers"] if config else 2
    return Job(
        split="val" if own else "test",
        annotations=Path(data["annotations"]),
        images=Path(data["images"]),
        max_images=data.get("max_images") if args.max_images is None else args.max_images,
        drop_degenerate_boxes=config["data"]["drop_degenerate_boxes"] if config and own else True,
        excluded_categories=config["data"].get("excluded_categories", []) if config and own else [],
        skip_unreadable=args.skip_unreadable or bool(config and own and config["data"].get("skip_unreadable")),
        pixel_range=pixel_range_option(args),
        max_megapixels=max_megapixels_option(args, config if own else None),
        computation=Computation(
            batch_size=batch_size if args.batch_size is None else args.batch_size,
            num_workers=num_workers if args.num_workers is None else args.num_workers,
            precision=args.precision or (config["train"]["precision"] if config else "fp32"),
            channels_last=config["train"]["channels_last"] if config else True,
        ),
    )


def prepare_own_data(run: Any, job: Job, world: World, trusted: Sequence[str]) -> None:
    """Make embedded data that is gone, and say when the file is not the one the run was validated on."""
    from experiments.run.embedded_data import ensure_data
    from sparse_rcnn.rundir.identity import file_fingerprint

    if world.is_main:
        if not job.annotations.is_file():
            ensure_data(run.config, trusted)
        expected = run.meta.get("data", {}).get("val", {}).get("fingerprint")
        exists = job.annotations.is_file()
        if expected is not None and exists and file_fingerprint(job.annotations) != expected:
            print(f"warning: {job.annotations} has changed since the training of {run.path}", file=sys.stderr)
    world.barrier()


def of_detector(dataset: CocoDetection, categories: Sequence[Mapping[str, Any]], path: str) -> CocoDetection:
    """The data set with the labels of a detector's classes, matched by id and name or by name.

    Raises:
        UserError: classes of the data are not the detector's; names the first.
    """
    try:
        return dataset.in_label_space_of(categories, path)
    except DataError as error:
        made_up = all(c["name"].startswith("class_") for c in categories)
        hint = f"; convert the weights again with --categories {dataset.annotations_path}" if made_up else ""
        raise DataError(f"{error}; evaluate on data of the model's classes{hint}") from error


def print_metrics(evaluation: Evaluation, title: str, max_dets: Collection[int], per_class: bool) -> None:
    """The twelve numbers in percent, one column an output; then those of the classes."""
    from rich.console import Console
    from rich.table import Table

    from experiments.run.final_table import percent

    columns = {f"stage {s}": metrics for s, metrics in enumerate(evaluation.stages[:-1])}
    columns["detector"] = evaluation.last
    columns |= {f"maxDets {number}": metrics for number, metrics in evaluation.wider.items() if number in max_dets}
    table = Table(title=title)
    table.add_column("%")
    for name in columns:
        table.add_column(name, justify="right")
    for row in zip(*(metrics.summary.items() for metrics in columns.values()), strict=True):
        names = dict.fromkeys(name for name, _ in row)  # AR100 is AR300 in the last column
        table.add_row("/".join(names), *(percent(value) for _, value in row))
    console = Console(soft_wrap=True)
    console.print(table)
    if per_class:
        table = Table("class", "AP", "AP50")
        for name, ap in evaluation.last.per_class.items():
            ap_50 = evaluation.last.per_class_50[name]
            table.add_row(name, *("-" if value is None else percent(value) for value in (ap, ap_50)))
        console.print(table)


def _check(args: argparse.Namespace) -> None:
    if (args.annotations is None) != (args.images is None):
        raise UserError("--annotations and --images belong together: give both, or neither for a run's own data")
    for option, least in (("batch_size", 1), ("max_images", 1), ("num_workers", 0)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise UserError(f"--{option.replace('_', '-')} {value}: at least {least}")


if __name__ == "__main__":
    run_cli(main, PICTURE_OPTIONS)
