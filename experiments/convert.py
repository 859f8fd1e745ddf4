"""python -m experiments.convert: checkpoints of the authors' release to our weights files, and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cli.mistakes import run_cli
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import CheckpointError, DataError, UserError
from sparse_rcnn.places import user_path

RELEASED_SUFFIXES = (".pth", ".pt")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.convert",
        description="Convert a checkpoint of the authors' release (.pth) to a weights file of this project "
        "(.safetensors), or the other way round; the input says which.",
    )
    parser.add_argument(
        "input", metavar="IN", type=user_path, help="released .pth, or our .safetensors or run directory"
    )
    parser.add_argument("output", metavar="OUT", type=user_path, help="file to write: .safetensors or .pth")
    released = parser.add_argument_group("from .pth, what the release does not say")
    released.add_argument(
        "--categories", metavar="JSON", type=user_path,
        help="COCO annotation file whose categories, sorted by id, are the classes "
        "(default: COCO's for 80 classes, else class_0, class_1 ...)",
    )  # fmt: skip
    released.add_argument("--short-side", type=int, default=800, metavar="N", help="pixels images are resized to (800)")
    released.add_argument("--max-long-side", type=int, default=1333, metavar="N", help="but no longer than this (1333)")
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
    architecture = convert(args)
    print(f"{args.input} -> {args.output}: {describe(architecture)}")


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
            "give a .pth of the Sparse R-CNN release"
        )
    if start[8:9] == b"{":  # after the length of the header, its JSON
        return True
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # a zip archive, or what came before PyTorch 1.6
        return False
    raise CheckpointError(f"{path} is neither a PyTorch checkpoint nor a safetensors file")


def convert_released(args: argparse.Namespace) -> dict[str, Any]:
    """Write the weights file for a released checkpoint and return its architecture."""
    from sparse_rcnn.convert import released_to_ours
    from sparse_rcnn.weights import ModelCard, save_weights

    _check_suffix(args, (".safetensors",))
    for option, size in (("--short-side", args.short_side), ("--max-long-side", args.max_long_side)):
        if size < 1:
            raise UserError(f"{option} {size}: give a number of pixels, at least 1")
    if args.max_long_side < args.short_side:
        raise UserError(f"--max-long-side {args.max_long_side} is less than --short-side {args.short_side}")
    state = read_released(args.input)
    try:
        tensors, architecture = released_to_ours(state)
    except CheckpointError as error:
        raise CheckpointError(f"{args.input}: {error}") from error
    categories = choose_categories(args.categories, architecture["stage"]["num_classes"])
    card = ModelCard(architecture, categories, args.short_side, args.max_long_side)
    save_weights(tensors, card, args.output)
    return architecture


def convert_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Write the released layout of a weights file and return its architecture."""
    import io

    import torch

    from sparse_rcnn.atomic import write_bytes_atomic
    from sparse_rcnn.convert import ours_to_released
    from sparse_rcnn.weights import find_weights, load_detector

    _check_suffix(args, RELEASED_SUFFIXES)
    path = find_weights(args.input)
    with trusted_modules(args) as trusted:
        model = load_detector(path, trusted)  # and not its tensors alone: what does not fit its own card is refused
    assert model.card is not None
    architecture = model.card.architecture
    try:
        released = ours_to_released(model.state_dict(), architecture)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    buffer = io.BytesIO()  # torch.save into a file would report a full disk in a way of its own
    torch.save({"model": {name: tensor.contiguous() for name, tensor in released.items()}}, buffer)
    write_bytes_atomic(args.output, buffer.getvalue())
    return architecture


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
    from experiments.config.categories import read_categories
    from sparse_rcnn.data.coco_categories import COCO_CATEGORIES

    if annotations is not None:
        found = read_categories(annotations)
        if len(found) != num_classes:
            raise DataError(f"{annotations} has {len(found)} categories, the checkpoint {num_classes} classes")
    elif num_classes == len(COCO_CATEGORIES):
        found = list(COCO_CATEGORIES)
    else:
        found = [(label, f"class_{label}") for label in range(num_classes)]
    return [{"id": category_id, "name": name} for category_id, name in found]


def describe(architecture: dict[str, Any]) -> str:
    bottom_up = architecture["backbone"]["bottom_up"]
    name = f"R{bottom_up['depth']}" if "depth" in bottom_up else bottom_up["_target_"].rpartition(".")[2]
    return (
        f"{name}, {architecture['proposals']['num_proposals']} proposals, "
        f"{architecture['num_stages']} stages, {architecture['stage']['num_classes']} classes"
    )


def _check_suffix(args: argparse.Namespace, suffixes: Sequence[str]) -> None:
    if args.output.suffix not in suffixes:
        kind = "a released checkpoint" if ".safetensors" in suffixes else "a weights file of this project"
        raise UserError(f"{args.input} is {kind}: OUT has to end in {' or '.join(suffixes)}, not {args.output.name}")


if __name__ == "__main__":
    run_cli(main)
