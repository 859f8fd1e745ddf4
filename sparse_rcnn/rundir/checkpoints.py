"""The checkpoints of a run: which there are, whether they are whole, and the damaged ones that are set aside."""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sparse_rcnn.atomic import sync_folder
from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import layout, own_digest
from sparse_rcnn.rundir.digests import difference, recorded_digests
from sparse_rcnn.rundir.json_files import reason

FILES = (layout.WEIGHTS, layout.TRAINING_STATE)
_NAME = re.compile(r"step_(\d{8})")
_ASIDE = "damaged-"
_FAULTS_OF_FILE_OR_DISK = (errno.EIO, errno.EINVAL)  # the latter of a place before the file's start
_FAULTS_OF_ARCHIVES = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error)


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that is not loaded.

    Attributes:
        path: where it lies.
        problem: file and fault, such as "model.safetensors is missing".
        aside: where it goes, beside the checkpoints.
    """

    path: Path
    problem: str
    aside: Path


def steps_of(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending, damaged ones included."""
    names = (_NAME.fullmatch(path.name) for path in folder.glob("step_*"))
    return sorted(int(match[1]) for match in names if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return folder / f"step_{step:08d}"


def folders_set_aside(folder: Path) -> list[Path]:
    """The damaged checkpoints that were set aside in a folder, sorted by name."""
    return sorted(folder.glob(f"{_ASIDE}step_*"))


def has_digests(checkpoint: Path) -> bool:
    """Whether the program that wrote a checkpoint wrote digests."""
    return (checkpoint / layout.DIGESTS).exists() or own_digest.has_weights_digest(checkpoint / layout.WEIGHTS)


def problem_of(checkpoint: Path) -> str | None:
    """File and fault of a checkpoint that is not what was written, None for one that is.

    One of an older program, without digests, is looked at as far as its files allow it: the structure of the weights,
    and the check sums in the training state, which is an archive.

    Raises:
        RunError: it cannot be read, for another reason than a fault of the disk.
    """
    try:
        if (checkpoint / layout.DIGESTS).exists():
            return _difference_from_digests(checkpoint)
        if own_digest.has_weights_digest(checkpoint / layout.WEIGHTS):
            return f"{layout.DIGESTS} is missing"
        return _fault_without_digests(checkpoint)
    except OSError as error:
        if error.errno in _FAULTS_OF_FILE_OR_DISK:
            return f"it cannot be read: {reason(error)}"
        raise RunError(f"{error.filename or checkpoint} cannot be read: {reason(error)}") from error


def damaged(checkpoint: Path, problem: str) -> DamagedCheckpoint:
    """A checkpoint with the name that it is set aside under, which no other one has."""
    names = (f"{_ASIDE}{checkpoint.name}{'' if number == 1 else f'-{number}'}" for number in count(1))
    aside = next(path for name in names if not (path := checkpoint.parent / name).exists())
    return DamagedCheckpoint(checkpoint, problem, aside)


def set_aside(found: DamagedCheckpoint) -> None:
    """Rename a damaged checkpoint, so that none looks for it again; for the holder of the run's lock.

    Raises:
        RunError: it cannot be renamed.
    """
    try:
        os.rename(found.path, found.aside)
        sync_folder(found.path.parent)
    except OSError as error:
        raise RunError(f"{found.path} is damaged ({found.problem}) and cannot be set aside: {reason(error)}") from error


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed process left of checkpoints that it wrote or dropped; for the holder of the run's lock."""
    for leftover in folder.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def newest_whole(folder: Path, note: Callable[[DamagedCheckpoint], None]) -> int | None:
    """The step of the newest checkpoint in a folder that is as it was written, None where there is none.

    Damaged ones on the way there are set aside, each after a call of ``note``: a process that is killed in between
    notes it again.

    Raises:
        RunError: a checkpoint cannot be read for another reason, or not be set aside.
    """
    for step in reversed(steps_of(folder)):
        path = checkpoint_path(folder, step)
        if (problem := problem_of(path)) is None:
            return step
        found = damaged(path, problem)
        note(found)
        set_aside(found)
    return None


def _difference_from_digests(checkpoint: Path) -> str | None:
    try:
        written = recorded_digests(checkpoint) or {}
    except RunError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno != errno.EIO:
            raise error.__cause__ from None
        return str(error).removeprefix(f"{checkpoint}/").partition(";")[0]
    for name in FILES:
        if name not in written:
            return f"{layout.DIGESTS} has no digest of {name}"
    for name, digest in written.items():
        if (problem := difference(checkpoint / name, digest)) is not None:
            return f"{name} {problem}"
    return None


def _fault_without_digests(checkpoint: Path) -> str | None:
    for name in FILES:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    if (problem := own_digest.weights_problem(checkpoint / layout.WEIGHTS)) is not None:
        return f"{layout.WEIGHTS} {problem}"
    try:
        with zipfile.ZipFile(checkpoint / layout.TRAINING_STATE) as archive:
            entry = archive.testzip()
    except _FAULTS_OF_ARCHIVES:
        return f"{layout.TRAINING_STATE} is no whole archive"
    return None if entry is None else f"{layout.TRAINING_STATE}: the check sum of {entry} is wrong"
