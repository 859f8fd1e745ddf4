"""Processes that train together: under torchrun, under SLURM, or one alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from sparse_rcnn.errors import UserError


class PeerError(Exception):
    """Another process of the group failed. ``rank`` is its rank, None where it is gone without a word."""

    def __init__(self, message: str, rank: int | None = None) -> None:
        self.rank = rank
        super().__init__(message if rank is None else f"rank {rank}: {message}")


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``size``, ``device`` to compute on.

    The host-side collectives go over gloo on CPU tensors, so they never wait for the device.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Sum host numbers over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any] | None:
        """Every process's value in rank order on rank 0, None elsewhere."""
        if self.size == 1:
            return [value]
        gathered = [None] * self.size if self.is_main else None
        dist.gather_object(value, gathered)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            self.sum_over_ranks([0.0])

    def raise_together(self, error: Exception | None) -> None:
        """Raise on every process where any has an error: its own on the first that has one.

        Raises:
            PeerError: on the others, so that none of them waits for a process that is gone.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        messages: list[str | None] = [None] * self.size
        dist.all_gather_object(messages, None if error is None else (str(error).splitlines() or [repr(error)])[0])
        for rank, message in enumerate(messages):
            if message is None:
                continue
            if rank == self.rank and error is not None:
                raise error
            raise PeerError(message, rank)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails on every process where it fails on any; nothing in it may talk to the others."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        self.raise_together(failure)

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def lost_peers() -> Iterator[None]:
    """Make a ``PeerError`` of what a collective raises when another process has closed its connection."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].split("] ")[-1][:120]
        raise PeerError(f"lost the connection to another process, which failed or was killed ({reason})") from error


def rank_from_environment(environ: dict[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) as torchrun or a SLURM job step states them; (0, 1, 0) otherwise.

    SLURM's variables count only inside a job step (``srun``): a batch script's own shell has a SLURM_PROCID too,
    but is no member of a group.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_RANK", 0))
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return (
            int(environ["SLURM_PROCID"]),
            int(environ["SLURM_STEP_NUM_TASKS"]),
            int(environ.get("SLURM_LOCALID", 0)),
        )
    return 0, 1, 0


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list such as ``gpu[07-09,12],login1``."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist)
    assert match is not None, nodelist
    return re.sub(r"\[([^\]]*)\]", lambda ranges: re.split("[-,]", ranges[1])[0], match[0])


def choose_device(device: str, local_rank: int) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1`` ... as a device of this process.

    Raises:
        UserError: the device does not exist here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device {device!r} does not exist; use auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device {device!r}: no CUDA device is visible here; use cpu")
        # With one visible GPU per task (SLURM's --gpus-per-task) every task's own GPU has index 0.
        count = torch.cuda.device_count()
        index = chosen.index if chosen.index is not None else local_rank % count
        if index >= count:
            visible = "1 CUDA device is" if count == 1 else f"{count} CUDA devices are"
            raise UserError(f"device {device!r}: only {visible} visible here; take a lower number")
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    return chosen


def init_world(device: str) -> World:
    """Join the other processes, if there are any, and choose the device.

    Raises:
        UserError: the device does not exist here, or the other processes cannot be met.
    """
    rank, size, local_rank = rank_from_environment(dict(os.environ))
    chosen = choose_device(device, local_rank)
    if size > 1 and not dist.is_initialized():
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = first_host(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        if "MASTER_PORT" not in os.environ:
            # Two jobs on one node must not meet, nor two steps or starts of one job: their ids spread the ports, below
            # those that Linux gives to outgoing connections.
            names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
            job, step, start = (int(os.environ.get(name, 0)) for name in names)
            os.environ["MASTER_PORT"] = str(20000 + (job + 101 * step + 1009 * start) % 12000)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, rank=rank, world_size=size)
        except dist.DistError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            reason = str(error).splitlines()[0]
            raise UserError(
                f"rank {rank} of {size} cannot meet the others at MASTER_ADDR:MASTER_PORT {address}: {reason}"
            ) from error
    return World(rank, size, chosen)
