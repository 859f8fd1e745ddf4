"""Weights files: safetensors with the architecture, the classes and the evaluation size in the header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sparse_rcnn.architecture import TRUSTED_MODULES, build
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.foreign_files import describe_foreign_file
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.rundir import layout, own_digest
from sparse_rcnn.rundir.file_digest import FileDigest
from sparse_rcnn.state_dicts import misfits

FORMAT = "sparse_rcnn"
FORMAT_VERSION = 1


def save_detector(model: nn.Module, card: ModelCard, path: str | Path) -> FileDigest:
    """Write the weights of a detector with its card, atomically; returns the digest of the file."""
    return save_weights(model.state_dict(), card, path)


def save_weights(tensors: Mapping[str, Tensor], card: ModelCard, path: str | Path) -> FileDigest:
    """Write tensors, named as in our models, with their card and a digest of the file, atomically.

    Returns:
        The digest of the file as a whole, which is not the one that stands in it.

    Raises:
        UserError: the file cannot be written.
    """
    on_cpu = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "card": card.to_json()}
    data = own_digest.sealed_weights(save(on_cpu, {**metadata, own_digest.KEY: own_digest.BLANK}))
    write_bytes_atomic(Path(path), data)
    return FileDigest.of_bytes(data)


def find_weights(path: str | Path) -> Path:
    """The weights file that is meant: the file itself, or that of the directory of a finished run.

    Raises:
        CheckpointError: absent, or a directory without weights.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"weights {path}: there is no such file or run directory")
    if (path / layout.WEIGHTS).is_file():
        return path / layout.WEIGHTS
    checkpoints = sorted(path.glob(f"{layout.CHECKPOINTS}/step_*/{layout.WEIGHTS}"))
    hint = f", or take the weights of its last checkpoint, {checkpoints[-1]}" if checkpoints else ""
    if (path / layout.META).is_file():
        raise CheckpointError(f"run {path} has no {layout.WEIGHTS}: it is not finished; finish its training{hint}")
    raise CheckpointError(f"{path} is neither a run directory nor a weights file: it holds no {layout.WEIGHTS}")


def read_weights(path: str | Path, is_checked: bool = False) -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors and card of a weights file.

    Args:
        path: of the file.
        is_checked: the file was compared with another digest of it; else it is with its own, where it has one.

    Raises:
        CheckpointError: absent, corrupt, or not written by ``save_weights``.
    """
    with _opened(Path(path)) as (file, card):
        if not is_checked and (problem := own_digest.weights_problem(Path(path))) is not None:
            raise CheckpointError(f"{path} {problem}; restore it from a copy, or write it anew")
        return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118 (no mapping)


def read_header(path: str | Path) -> tuple[dict[str, tuple[int, ...]], ModelCard]:
    """Shapes of the tensors and card of a weights file, without reading the tensors or checking the digest.

    Raises: as ``read_weights``.
    """
    with _opened(Path(path)) as (file, card):
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, card  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, ModelCard]]:
    """The open file, whose tensors may be read, and its card."""
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file but not one of this project; a released checkpoint has to be "
                    "converted first"
                )
            if int(metadata["format_version"]) > FORMAT_VERSION:
                raise CheckpointError(
                    f"{path} has format version {metadata['format_version']}, this version reads "
                    f"{FORMAT_VERSION}; update sparse-rcnn-suite"
                )
            yield file, ModelCard.from_json(metadata["card"])
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        foreign = describe_foreign_file(path)
        if foreign is not None:
            raise CheckpointError(f"{path} is {foreign}; give a weights file of this project") from error
        hint = ""
        if path.suffix in (".pth", ".pt", ".pkl"):
            hint = "; a released checkpoint has to be converted first"
        raise CheckpointError(f"{path} is corrupt or not a safetensors file ({_first_line(error)}){hint}") from error


def load_detector(path: str | Path, trusted_modules: Sequence[str] = TRUSTED_MODULES) -> DetectorModule:
    """Build the detector a weights file describes and load it, in eval mode, on the CPU."""
    path = find_weights(path)
    tensors, card = read_weights(path)
    model = build(card.architecture, trusted_modules)
    if not isinstance(model, DetectorModule):
        raise CheckpointError(f"{path} describes a {type(model).__name__}, which is no detector")
    if len(card.categories) != (num_classes := model.num_classes):
        raise CheckpointError(f"{path} names {len(card.categories)} classes, its model has {num_classes}")
    load_tensors(model, tensors, str(path))
    model.card = card
    return model.eval()


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a model after checking every name and shape.

    Raises:
        CheckpointError: names the first tensors that are missing, surplus or of another shape.
    """
    problems = misfits(model.state_dict(), tensors)
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {problems}")
    model.load_state_dict(tensors)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
