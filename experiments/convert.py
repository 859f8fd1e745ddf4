"""python -m experiments.convert: released checkpoints of detectors to our weights files, and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.mistakes import run_cli
from experiments.cli.naming import naming
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import CheckpointError, DataError, UserError
from sparse_rcnn.places import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_rcnn.released_formats import ReleasedFormat

RELEASED_SUFFIXES = (".pth", ".pt")
# Settings that leave no trace in the tensors, by the names of our constructors.
OPTIONS = {
    "dilation": "--dilation",
    "num_heads": "--num-heads",
    "with_position": "--without-position",
    "norm_eps": "--norm-eps",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.convert",
        description="Convert a released checkpoint (.pth) of any detector of docs/weights.md to a weights file of this "
        "project (.safetensors), or one of ours to the authors' layout; the input says which.",
    )
    parser.add_argument(
        "input", metavar="IN", type=user_path, help="released .pth, or our .safetensors or run directory"
    )
    parser.add_argument("output", metavar="OUT", type=user_path, help="file to write: .safetensors or .pth")
    released = parser.add_argument_group("from .pth, what the release does not say")
    released.add_argument(
        "--categories", metavar="JSON", type=user_path,
        help="COCO annotation file whose categories, sorted by id, are the classes; fewer than those of a checkpoint "
        "with an output for every id, the outputs of these ids (default: COCO's for 80 classes and where "
        "there is an output for every id up to 90, else class_0, class_1 ...)",
    )  # fmt: skip
    released.add_argument("--short-side", type=int, default=800, metavar="N", help="pixels images are resized to (800)")
    released.add_argument("--max-long-side", type=int, default=1333, metavar="N", help="but no longer than this (1333)")
    released.add_argument(
        "--dilation",
        action="store_const",
        const=True,
        help="its last stage is dilated (DC5), which its tensors do not show",
    )
    released.add_argument("--num-heads", type=int, metavar="N", help="attention heads of its transformer (8)")
    released.add_argument(
        "--without-position", dest="with_position", action="store_const", const=False,
        help="it has no spatial encoding",
    )  # fmt: skip
    released.add_argument(
        "--norm-eps", type=float, metavar="X",
        help="epsilon of the batch norms of a detector of torchvision: 0 for COCO_V1 and what was fine-tuned from it "
        "(the default), else 1e-5",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    add_trust_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    if args.output.is_dir():
        raise UserError(f"{args.output} is a folder: give the name of the file to write")
    if args.output.exists() and not args.force:
        raise UserError(f"{args.output} exists: choose another name, or overwrite it with --force")
    convert = convert_ours if is_ours(args.input) else convert_released
    print(f"{args.input} -> {args.output}: {convert(args)}")


def is_ours(path: Path) -> bool:
    """Whether a path is a safetensors file or a folder (then a run's), and not a PyTorch checkpoint.

    Raises:
        CheckpointError: absent, or neither of both.
    """
    if path.is_dir():
        return True
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix == ".pkl":
        raise CheckpointError(
            f"{path} is a model-zoo pickle, which holds a backbone or another detector: "
            "give a .pth of a released detector"
        )
    if start[8:9] == b"{":  # after the length of the header, its JSON
        return True
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # a zip archive, or what came before PyTorch 1.6
        return False
    raise CheckpointError(f"{path} is neither a PyTorch checkpoint nor a safetensors file")


def convert_released(args: argparse.Namespace) -> str:
    """Write the weights file for a released checkpoint and return its description."""
    from sparse_rcnn.released_classes import COCO_IDS
    from sparse_rcnn.released_formats import format_of_file
    from sparse_rcnn.weights import ModelCard, save_weights

    _check_suffix(args, (".safetensors",))
    for option, size in (("--short-side", args.short_side), ("--max-long-side", args.max_long_side)):
        if size < 1:
            raise UserError(f"{option} {size}: give a number of pixels, at least 1")
    if args.max_long_side < args.short_side:
        raise UserError(f"--max-long-side {args.max_long_side} is less than --short-side {args.short_side}")
    state = read_released(args.input)
    with naming(str(args.input)):
        layout = format_of_file(state)
    settings = given_settings(args, layout)
    with naming(str(args.input)):
        tensors, architecture = layout.read(state, settings)
    tensors, architecture, categories = with_classes(args.categories, layout, tensors, architecture)
    card = ModelCard(architecture, categories, args.short_side, args.max_long_side)
    save_weights(tensors, card, args.output)
    is_taken_for_coco = args.categories is None and [c["id"] for c in categories] == list(COCO_IDS)
    return layout.describe(architecture) + (", those of COCO (--categories for others)" if is_taken_for_coco else "")


def convert_ours(args: argparse.Namespace) -> str:
    """Write the released layout of a weights file and return its description."""
    import io

    import torch

    from sparse_rcnn.atomic import write_bytes_atomic
    from sparse_rcnn.released_classes import COCO_IDS, NUM_COCO_OUTPUTS, spread_classes
    from sparse_rcnn.released_formats import format_of_architecture
    from sparse_rcnn.weights import find_weights, load_detector

    _check_suffix(args, RELEASED_SUFFIXES)
    if given := [option for name, option in OPTIONS.items() if getattr(args, name) is not None]:
        raise UserError(f"{given[0]}: {args.input} is a weights file of this project, which says that itself")
    path = find_weights(args.input)
    with trusted_modules(args) as trusted:
        model = load_detector(path, trusted)  # and not its tensors alone: what does not fit its own card is refused
    assert model.card is not None
    architecture, state = model.card.architecture, dict(model.state_dict())
    with naming(str(path)):
        layout = format_of_architecture(architecture)
        written = architecture
        is_coco = tuple(model.card.category_ids) == COCO_IDS
        num_read_as_coco = {len(COCO_IDS)}
        if layout.first_id is not None:
            num_outputs = NUM_COCO_OUTPUTS - layout.first_id
            num_read_as_coco.add(num_outputs)
            if is_coco:
                outputs = [category_id - layout.first_id for category_id in COCO_IDS]
                state = spread_classes(state, model.class_tensors(), outputs, num_outputs)
                written = architecture | {"num_classes": num_outputs}
        released = layout.write(state, written)
    buffer = io.BytesIO()  # torch.save into a file would report a full disk in a way of its own
    torch.save({"model": {name: tensor.contiguous() for name, tensor in released.items()}}, buffer)
    write_bytes_atomic(args.output, buffer.getvalue())
    told = [
        OPTIONS[name] + (f" {value}" if not isinstance(value, bool) else "")
        for name, value in layout.settings_of(architecture).items()
        if value != layout.settings[name]
    ]
    if not is_coco and model.num_classes in num_read_as_coco:
        told.append("--categories with these classes")
    return layout.describe(architecture) + (f"; to convert it back, give {' '.join(told)}" if told else "")


def given_settings(args: argparse.Namespace, layout: ReleasedFormat) -> dict[str, Any]:
    """The settings that a checkpoint of a layout leaves open: those of the options, else the usual ones.

    Raises:
        UserError: an option is not of this layout; names it.
    """
    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    for name in given:
        if name not in layout.settings:
            raise UserError(f"{OPTIONS[name]}: {args.input} is a {layout.name}, which has no such setting")
    if given.get("num_heads", 1) < 1:
        raise UserError(f"--num-heads {given['num_heads']}: give a number of at least 1")
    if not 0 <= given.get("norm_eps", 0.0) < 1:
        raise UserError(f"--norm-eps {given['norm_eps']}: give a number from 0 to below 1")
    return {**layout.settings, **given}


def with_classes(
    annotations: Path | None, layout: ReleasedFormat, tensors: dict[str, Tensor], architecture: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]]:
    """Tensors, architecture and categories, of all classes or, where there is one for every id, of the categories' ids.

    As many categories as there are classes are these, in order. Fewer are chosen by their ids.

    Raises:
        DataError: the annotation file has other categories than the checkpoint has outputs.
    """
    import torch

    from sparse_rcnn.architecture import build
    from sparse_rcnn.released_classes import COCO_IDS, NUM_COCO_OUTPUTS, keep_classes

    with torch.device("meta"):
        model = build(architecture)
    num_classes, ids = model.num_classes, None
    if layout.first_id is not None:
        if annotations is not None:
            ids = ids_of_outputs(annotations, range(layout.first_id, layout.first_id + num_classes))
        elif layout.first_id + num_classes == NUM_COCO_OUTPUTS:
            ids = COCO_IDS
    if layout.first_id is None or ids is None:
        return tensors, architecture, choose_categories(annotations, num_classes)
    kept = keep_classes(tensors, model.class_tensors(), [category_id - layout.first_id for category_id in ids])
    return kept, architecture | {"num_classes": len(ids)}, choose_categories(annotations, len(ids))


def ids_of_outputs(annotations: Path, outputs: range) -> Sequence[int] | None:
    """The ids of a file's categories, in order, where they are fewer than the outputs; None where they are not.

    Raises:
        DataError: one of the fewer is not the id of an output; names it.
    """
    from experiments.config.categories import category_ids
    from sparse_rcnn.data.ids import id_key

    ids = category_ids(annotations)
    if len(ids.numbers) >= len(outputs):
        return None
    chosen: list[int] = []
    for number in sorted(ids.numbers.tolist()):
        key = id_key(ids.original(number))  # a text that is no number has one in its place
        if not isinstance(key, int) or key not in outputs or key in chosen:
            raise DataError(
                f"{annotations} has {len(ids.numbers)} categories, the checkpoint {len(outputs)} classes: fewer are "
                f"chosen by their ids, {outputs[0]} to {outputs[-1]}, and category id {ids.original(number)!r} is not "
                "one of them; give as many categories as classes, in their order"
            )
        chosen.append(key)
    return chosen


def read_released(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint saved by torch, from its ``model`` entry where there is one.

    Values may be numpy arrays, as detectron2's tools write them. Nothing else is ever unpickled.

    Raises:
        CheckpointError: corrupt, or no state dict.
    """
    from sparse_rcnn.checkpoint_files import load_checkpoint, tensors_of

    state = load_checkpoint(path)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds no state dict of tensors")
    tensors = tensors_of(state)
    for name, value in state.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor")
    return tensors


def choose_categories(annotations: Path | None, num_classes: int) -> list[dict[str, Any]]:
    """Ids and names of the classes: of an annotation file, of COCO for 80 classes, or made up.

    Raises:
        DataError: the file has another number of categories.
    """
    from sparse_rcnn.data.coco_categories import COCO_CATEGORIES

    if annotations is not None:
        found = _categories_of(annotations)
        if len(found) != num_classes:
            raise DataError(f"{annotations} has {len(found)} categories, the checkpoint {num_classes} classes")
    elif num_classes == len(COCO_CATEGORIES):
        found = list(COCO_CATEGORIES)
    else:
        found = [(label, f"class_{label}") for label in range(num_classes)]
    return [{"id": category_id, "name": name} for category_id, name in found]


def _categories_of(annotations: Path) -> list[tuple[int, str]]:
    from experiments.config.categories import read_categories

    return list(read_categories(annotations))


def _check_suffix(args: argparse.Namespace, suffixes: Sequence[str]) -> None:
    if args.output.suffix not in suffixes:
        kind = "a released checkpoint" if ".safetensors" in suffixes else "a weights file of this project"
        raise UserError(f"{args.input} is {kind}: OUT has to end in {' or '.join(suffixes)}, not {args.output.name}")


if __name__ == "__main__":
    run_cli(main)
