"""python -m experiments.predict: annotated pictures and a JSON file of what is in images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.mistakes import run_cli
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.places import user_path

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

    from sparse_rcnn.detector import SparseRCNN

READ_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
WRITE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.predict",
        description="Detect in images: annotated pictures and one detections.json come out.",
    )
    parser.add_argument("path", metavar="PATH", type=user_path, help="run directory or weights file")
    parser.add_argument("inputs", metavar="INPUT", type=user_path, nargs="+", help="image, or folder of images")
    parser.add_argument("--out", metavar="DIR", type=user_path, required=True, help="folder to write to")
    parser.add_argument("--score-threshold", metavar="S", type=float, default=0.3, help="leave out lower scores (0.3)")
    parser.add_argument(
        "--stages", action="store_true",
        help="also draw the learned proposals and the boxes of every stage, in NAME.stages.*",
    )  # fmt: skip
    parser.add_argument("--batch-size", metavar="N", type=int, default=8, help="images read at once (8)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add_trust_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Detect in all images; one that cannot be read is named and left out, and the exit code is then 1."""
    args = parse(arguments)
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold {args.score_threshold}: give a score within 0 and 1")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    pictures = plan_outputs(args.inputs, args.out)
    from experiments.cli.naming import init_world_on
    from sparse_rcnn.detector import SparseRCNN
    from sparse_rcnn.rundir.json_files import write_json_atomic

    with trusted_modules(args) as trusted:
        model = SparseRCNN.from_pretrained(args.path, trusted)
    model.to(init_world_on(args.device, "--device").device)
    assert model.card is not None
    records = list(predict_files(model, pictures, args))
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


def predict_files(model: SparseRCNN, pictures: dict[Path, Path], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
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
                    images[file] = read_image(file)
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


def draw_image_stages(model: SparseRCNN, image: Image, score_threshold: float) -> Any:
    """The learned proposals, then every stage's boxes, side by side."""
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
        for file in find_images(given, out):
            name = file.relative_to(given) if given.is_dir() else Path(file.name)
            names.setdefault(Path(os.path.abspath(file)), name)
    if len({str(picture_name(name)).lower() for name in names.values()}) < len(names):
        common = os.path.commonpath([file.parent for file in names])
        names = {file: file.relative_to(common) for file in names}
    pictures = {file: picture_name(name) for file, name in names.items()}
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    sources = {os.path.realpath(file) for file in pictures}
    for picture in pictures.values():
        for target in (picture, stages_path(picture)):
            if os.path.realpath(out / target) in sources:
                raise UserError(f"--out {out}: {target} would replace an input: choose another folder")
    return pictures


def find_images(given: Path, out: Path) -> list[Path]:
    """The file itself, or the images below a folder, sorted, without hidden ones and those below ``out``."""
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise UserError(f"{given}: there is no such image or folder")
    found, own = [], os.path.realpath(out)
    for folder, subfolders, files in os.walk(given):
        # Pictures of an earlier call are no input.
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) != own
        ]
        found += [
            Path(folder, name) for name in files if name.lower().endswith(READ_SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        raise UserError(f"folder {given} holds no images ({', '.join(s[1:] for s in READ_SUFFIXES)})")
    return sorted(found)


def picture_name(name: Path) -> Path:
    """The name of the picture of an image: its own where its format can be written, else with .png added."""
    return name if name.suffix.lower() in WRITE_FORMATS else name.with_name(name.name + ".png")


if __name__ == "__main__":
    run_cli(main)
