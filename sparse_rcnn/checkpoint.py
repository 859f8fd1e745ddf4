"""Training checkpoints: a folder per step, whole or absent, and everything a bitwise resume needs."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.rundir import layout
from sparse_rcnn.weights import load_tensors, read_weights, save_detector

NUM_KEPT = 2  # the newest and the one before: a full disk or a crash while writing never leaves none


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
    """``checkpoints/step_00000800/`` with ``model.safetensors`` and ``training_state.pt``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        names = (re.fullmatch(r"step_(\d{8})", p.name) for p in self.path.glob("step_*"))
        return sorted(int(m.group(1)) for m in names if m)

    def folder(self, step: int) -> Path:
        return self.path / f"step_{step:08d}"

    def save(self, model: nn.Module, card: ModelCard, state: TrainingState) -> Path:
        """Write a checkpoint under another name, sync it, rename it, then drop the older ones.

        Raises:
            UserError: the disk is full or the folder cannot be written; nothing half-written stays.
        """
        final = self.folder(state.step)
        temporary = self.path / f".{final.name}.{os.getpid()}.tmp"
        try:
            self._clean()
            temporary.mkdir(parents=True)
            save_detector(model, card, temporary / layout.WEIGHTS)
            with open(temporary / "training_state.pt", "wb") as file:
                torch.save(vars(state), file)
                file.flush()
                os.fsync(file.fileno())
            if final.exists():
                shutil.rmtree(final)
            os.replace(temporary, final)
            _sync_folder(self.path)
        except (OSError, RuntimeError, UserError) as error:  # torch.save reports a full disk as RuntimeError
            reason = getattr(error.__cause__ or error, "strerror", None) or str(error).splitlines()[0]
            raise UserError(f"cannot write checkpoint {final}: {reason}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for step in self.steps()[:-NUM_KEPT]:
            shutil.rmtree(self.folder(step), ignore_errors=True)
        return final

    def _clean(self) -> None:
        # What a killed process left in mid-write. The run's lock makes sure that nobody else is writing.
        for leftover in self.path.glob(".step_*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def load_latest(self, model: nn.Module, identity: str) -> TrainingState | None:
        """Load the newest checkpoint into the model and return the rest, or None where there is none.

        Raises:
            CheckpointError: corrupt, or of another configuration; names the file and what to do.
        """
        steps = self.steps()
        if not steps:
            return None
        folder = self.folder(steps[-1])
        hint = f"delete {folder} to go on from {'the one before' if len(steps) > 1 else 'the start'}"
        file = folder / "training_state.pt"
        try:
            state = TrainingState(**torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # what torch.load raises on a damaged file has many types
            raise CheckpointError(f"{file} is corrupt ({type(error).__name__}); {hint}") from error
        if state.identity != identity:
            raise CheckpointError(
                f"{folder} belongs to configuration {state.identity}, this run is {identity}; use another run directory"
            )
        try:
            tensors, _ = read_weights(folder / layout.WEIGHTS)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {hint}") from error
        load_tensors(model, tensors, str(folder / layout.WEIGHTS))
        return state


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
