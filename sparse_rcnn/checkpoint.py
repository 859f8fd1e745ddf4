"""Training checkpoints: a folder per step, whole or absent, and everything a bitwise resume needs."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from sparse_rcnn.atomic import sync_folder
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.rundir import checkpoints, layout
from sparse_rcnn.rundir.digests import write_digests
from sparse_rcnn.rundir.file_digest import DigestWriter
from sparse_rcnn.weights import load_tensors, read_weights, save_detector

NUM_KEPT = 2  # the newest and the one before: a crash while writing, or damage to the newest, never leaves none


@dataclass
class TrainingState:
    """All that changes during training, besides the weights.

    ``seconds`` is the wall time of the training so far. ``rng`` holds one state per rank. The sampler's
    position and the schedule are functions of ``step`` alone.
    """

    step: int
    identity: str
    seconds: float
    optimizer: dict[str, Any]
    ema: dict[str, Any] | None
    rng: list[dict[str, Any]]


class CheckpointFolder:
    """``checkpoints/step_00000800/`` with ``model.safetensors``, ``training_state.pt`` and the digests of both."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return checkpoints.steps_of(self.path)

    def folder(self, step: int) -> Path:
        return checkpoints.checkpoint_path(self.path, step)

    def save(self, model: nn.Module, card: ModelCard, state: TrainingState) -> Path:
        """Write a checkpoint under another name, sync and read it again, rename it, then drop the older ones.

        Raises:
            UserError: the disk is full, the folder cannot be written, or holds something else than was written; nothing
                half-written stays.
        """
        final = self.folder(state.step)
        temporary = self.path / f".{final.name}.{os.getpid()}.tmp"
        try:
            checkpoints.clear_leftovers(self.path)
            temporary.mkdir(parents=True)
            digests = {layout.WEIGHTS: save_detector(model, card, temporary / layout.WEIGHTS)}
            with open(temporary / layout.TRAINING_STATE, "wb") as file:
                writer = DigestWriter(file)
                torch.save(vars(state), cast(IO[bytes], writer))  # which needs no more than its write
                file.flush()
                os.fsync(file.fileno())
            digests[layout.TRAINING_STATE] = writer.digest
            write_digests(temporary, digests)
            sync_folder(temporary)
            if (problem := checkpoints.problem_of(temporary)) is not None:
                raise CheckpointError(f"{problem}; check the disk")
            if final.exists():
                self._drop(state.step)
            os.replace(temporary, final)
            sync_folder(self.path)
        except (OSError, RuntimeError, UserError) as error:  # torch.save reports a full disk as RuntimeError
            reason = getattr(error.__cause__ or error, "strerror", None) or str(error).splitlines()[0]
            raise UserError(f"cannot write checkpoint {final}: {reason}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for step in self.steps()[:-NUM_KEPT]:
            self._drop(step)
        return final

    def _drop(self, step: int) -> None:
        """Delete a checkpoint, which is none any more before its first file goes; one that cannot be renamed stays."""
        hidden = self.path / f".{self.folder(step).name}.dropped.tmp"
        with suppress(OSError):
            os.replace(self.folder(step), hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def load(self, model: nn.Module, identity: str, step: int) -> TrainingState:
        """Load the checkpoint of a step into the model and return the rest.

        Raises:
            CheckpointError: absent, damaged, of another configuration, or not to be read by this torch; names the file
                and what to do.
        """
        folder = self.folder(step)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} does not exist here: all processes have to see the same runs_root")
        if (problem := checkpoints.problem_of(folder)) is not None:
            raise CheckpointError(
                f"{folder} is damaged: {problem}; start the run again, which goes on from the one before"
            )
        file = folder / layout.TRAINING_STATE
        try:
            state = TrainingState(**torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # what torch.load raises has many types
            raise CheckpointError(
                f"{file} cannot be loaded ({type(error).__name__}), though it is not damaged: install the torch that "
                f"wrote it (meta.json), or move {folder} away to go on without it"
            ) from error
        if state.identity != identity:
            raise CheckpointError(
                f"{folder} belongs to configuration {state.identity}, this run is {identity}; use another run directory"
            )
        tensors, _ = read_weights(folder / layout.WEIGHTS, is_checked=True)
        load_tensors(model, tensors, str(folder / layout.WEIGHTS))
        return state
