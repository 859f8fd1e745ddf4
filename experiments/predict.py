"""python -m experiments.predict: annotated pictures and a JSON file of what is in images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.mistakes import run_cli
from experiments.cli.picture_folders import find_pictures
from experiments.cli.picture_options import (
    PICTURE_OPTIONS,
    add_picture_options,
    max_megapixels_option,
    pixel_range_option,
)
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.places import user_path

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

    from sparse_rcnn.detector_base import Detector
    from sparse_rcnn.pixel_range import PixelRange

WRITE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.predict",
        description="Detect in images: annotated pictures and one detections.json come out. With --annotations, in "
        "the images that a COCO file lists, such as COCO's test-dev: results.json comes out, to be submitted.",
    )
    parser.add_argument("path", metavar="PATH", type=user_path, help="run directory or weights file")
    parser.add_argument("inputs", metavar="INPUT", type=user_path, nargs="*", help="image, or folder of images")
    parser.add_argument("--annotations", metavar="JSON", type=user_path, help="COCO file whose images to detect in")
    parser.add_argument("--images", metavar="DIR", type=user_path, help="folder of its images")
    parser.add_argument("--out", metavar="DIR", type=user_path, required=True, help="folder to write to")
    parser.add_argument(
        "--score-threshold", metavar="S", type=float,
        help="leave out lower scores (0.3; with --annotations 0: the evaluation counts all)",
    )  # fmt: skip
    parser.add_argument(
        "--stages", action="store_true",
        help="also draw the boxes of every stage, and the learned proposals before them, in NAME.stages.*",
    )  # fmt: skip
    parser.add_argument("--batch-size", metavar="N", type=int, default=8, help="images read at once (8)")
    parser.add_argument(
        "--num-workers", metavar="N", type=int, default=2, help="processes that load images, with --annotations (2)"
    )
    add_picture_options(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add_trust_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Detect in all images; one that cannot be read is named and left out, and the exit code is then 1."""
    args = parse(arguments)
    if args.score_threshold is None:
        args.score_threshold = 0.3 if args.annotations is None else 0.0
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold {args.score_threshold}: give a score within 0 and 1")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    if args.num_workers < 0:
        raise UserError(f"--num-workers {args.num_workers}: at least 0")
    pixel_range, max_megapixels = pixel_range_option(args), max_megapixels_option(args)
    if (args.annotations is None) != (args.images is None):
        raise UserError("--annotations and --images belong together: give both")
    if args.annotations is not None:
        if args.inputs or args.stages:
            raise UserError("--annotations: the file lists the images; leave INPUT and --stages out")
        submit(args, pixel_range, max_megapixels)
        return
    if not args.inputs:
        raise UserError("there is nothing to detect in: give images or folders, or --annotations and --images")
    pictures = plan_outputs(args.inputs, args.out)
    import torch

    from experiments.cli.naming import init_world_on, naming_weights
    from sparse_rcnn.detector_base import Detector
    from sparse_rcnn.rundir.json_files import write_json_atomic

    with trusted_modules(args) as trusted:
        model = Detector.from_pretrained(args.path, trusted)
    model.to(init_world_on(args.device, "--device").device).to(memory_format=torch.channels_last)  # faster
    assert model.card is not None
    if args.stages and not model.has_stages:
        raise UserError(f"--stages: {args.path} is a {type(model).__name__}, which has no stages; leave it out")
    pixel_range = model.card.pixel_range if pixel_range is None else pixel_range
    with naming_weights(args.path):
        records = list(predict_files(model, pictures, args, pixel_range, max_megapixels))
    num_unreadable = len(pictures) - len(records)
    if not records:
        raise UserError(f"none of the {len(pictures)} images could be read")
    result = {
        "weights": args.path.resolve(),
        "score_threshold": args.score_threshold,
        "categories": model.card.categories,
        "images": records,
    }
    write_json_atomic(args.out / "detections.json", result)
    num_detections = sum(len(record["scores"]) for record in records)
    print(
        f"{num_detections} detections of at least {args.score_threshold:g} in {len(records)} images: "
        f"pictures and detections.json in {args.out}"
    )
    if num_unreadable:
        raise UserError(f"{num_unreadable} of {len(pictures)} images could not be read, see the warnings")


def submit(args: argparse.Namespace, pixel_range: PixelRange | None, max_megapixels: float | None) -> None:
    """Detect in the images of a COCO file and write results.json, with its ids and of every score."""
    from experiments.cli.naming import init_world_on, naming_weights
    from experiments.run.detection import Computation, write_results
    from sparse_rcnn.detector_base import Detector

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: give a folder")
    with trusted_modules(args) as trusted:
        model = Detector.from_pretrained(args.path, trusted)
    assert model.card is not None
    path = args.out / "results.json"
    with naming_weights(args.path):
        number = write_results(
            model,
            args.annotations,
            args.images,
            path,
            init_world_on(args.device, "--device"),
            Computation(args.batch_size, args.num_workers, precision="fp32", channels_last=True),
            args.score_threshold,
            model.card.pixel_range if pixel_range is None else pixel_range,
            max_megapixels,
            args.skip_unreadable,
        )
    if number is not None:
        print(f"{number} detections as COCO results in {path}")


def predict_files(
    model: Detector,
    pictures: dict[Path, Path],
    args: argparse.Namespace,
    pixel_range: PixelRange,
    max_megapixels: float | None,
) -> Iterator[dict[str, Any]]:
    """Detect in files, draw each picture and give what was found; warn of files that cannot be read."""
    from tqdm import tqdm

    from sparse_rcnn.data.image import read_image
    from sparse_rcnn.visualize import draw_detections

    files = list(pictures)
    assert model.card is not None
    with tqdm(total=len(files), desc="predict", unit="img", disable=None if len(files) > 1 else True) as bar:
        for start in range(0, len(files), args.batch_size):
            images = {}
            for file in files[start : start + args.batch_size]:
                try:
                    images[file] = read_image(file, pixel_range=pixel_range, max_megapixels=max_megapixels)
                except DataError as error:
                    tqdm.write(f"warning: {error}", file=sys.stderr)
                    bar.update()
            found = model.predict(list(images.values()), args.score_threshold, args.batch_size)
            for (file, image), detections in zip(images.items(), found, strict=True):
                output = args.out / pictures[file]
                save_picture(draw_detections(image, detections, model.card.class_names, args.score_threshold), output)
                if args.stages:
                    save_picture(draw_image_stages(model, image, args.score_threshold), stages_path(output))
                labels = detections.labels.tolist()
                yield {
                    "file": str(file),
                    "picture": pictures[file].as_posix(),
                    "width": image.shape[-1],
                    "height": image.shape[-2],
                    "boxes_xyxy_abs": detections.boxes_xyxy_abs.tolist(),
                    "scores": detections.scores.tolist(),
                    "labels": labels,
                    "class_names": [model.card.class_names[label] for label in labels],
                }
                bar.update()


def draw_image_stages(model: Detector, image: Image, score_threshold: float) -> Any:
    """The learned proposals where there are any, then every stage's boxes, side by side."""
    from sparse_rcnn.visualize import draw_stages

    assert model.card is not None
    stages = model.predict_stages(image)
    return draw_stages(
        image,
        stages.boxes_xyxy_abs,
        stages.scores,
        stages.labels,
        stages.proposals_xyxy_abs,
        model.card.class_names,
        score_threshold,
    )


def save_picture(picture: Any, path: Path) -> None:
    from sparse_rcnn.atomic import replacing

    with replacing(path) as temporary:
        picture.save(temporary, format=WRITE_FORMATS[path.suffix.lower()], quality=92)


def stages_path(picture: Path) -> Path:
    return picture.with_name(f"{picture.stem}.stages{picture.suffix}")


def plan_outputs(inputs: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The images to read, and where the picture of each goes, relative to ``out``.

    An image keeps its path within the folder that was given. Where two would meet, all keep theirs from the
    folder that is common to all inputs.

    Raises:
        UserError: an input is absent or a folder without images, or a picture would replace an image.
    """
    names: dict[Path, Path] = {}  # each file once, though it may be in several inputs
    for given in inputs:
        pictures, left_aside = find_pictures(given, out)
        if left_aside is not None:
            print(f"note: {left_aside}", file=sys.stderr)
        for file in pictures:
            name = file.relative_to(given) if given.is_dir() else Path(file.name)
            names.setdefault(Path(os.path.abspath(file)), name)
    if len({str(picture_name(name)).lower() for name in names.values()}) < len(names):
        common = os.path.commonpath([file.parent for file in names])
        names = {file: file.relative_to(common) for file in names}
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for file, name in names.items():
        target = picture_name(name)
        while not taken.isdisjoint(both := {str(path).lower() for path in (target, stages_path(target))}):
            target = target.with_name(target.name + ".png")  # a.gif beside a.gif.png
        taken |= both
        targets[file] = target
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    sources = {os.path.realpath(file) for file in targets}
    for picture in targets.values():
        for target in (picture, stages_path(picture)):
            if os.path.realpath(out / target) in sources:
                raise UserError(f"--out {out}: {target} would replace an input: choose another folder")
    return targets


def picture_name(name: Path) -> Path:
    """The name of the picture of an image: its own where its format can be written, else with .png added."""
    return name if name.suffix.lower() in WRITE_FORMATS else name.with_name(name.name + ".png")


if __name__ == "__main__":
    run_cli(main, PICTURE_OPTIONS)
