"""Processes that load batches: what one of them dies of reaches the caller where it asks for a batch, as one line."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from sparse_rcnn.errors import UserError
from sparse_rcnn.structures import Batch

SHARED_MEMORY = "/dev/shm"
OPEN_FILES = 65536
_SHARED_MEMORY_FULL = ("unable to allocate shared memory", "unable to write to file </torch", "Bus error")
_OPEN_FILES_SPENT = ("Too many open files", "items of ancdata")
_MEMORY_SPENT = ("Caught MemoryError", "can't allocate memory", "Cannot allocate memory")


class LoaderError(UserError):
    """A process that loads batches cannot go on: killed, or out of memory, shared memory or open files."""


class LoaderMemoryError(LoaderError):
    """A loader process found no memory, or was killed, which is most often the same."""


class WatchedLoader:
    """The batches of a ``DataLoader``; iterating starts its processes at once.

    Args:
        loader: of batches.

    Raises:
        LoaderError: from the iterator, where a loader process ended or cannot be started, or what it loaded cannot be
            handed over; says why, as far as it can be known.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    @property
    def batch_sampler(self) -> Any:
        return self._loader.batch_sampler

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return _Watched(self._loader)


class _Watched(Iterator[Batch]):
    def __init__(self, loader: DataLoader[Any]) -> None:
        self._num_workers = loader.num_workers
        if self._num_workers:
            _allow_many_open_files()
        others = multiprocessing.active_children()
        try:
            with _without_torchs_handler():
                self._batches = iter(loader)
        except OSError as error:
            reason = f"{loader.num_workers} loader processes cannot be started: {error.strerror or error}"
            place = f" in {SHARED_MEMORY}, which has {_size_of_shared_memory()}" if error.errno == errno.ENOSPC else ""
            _drop_half_made_iterator(error)
            raise LoaderError(f"{reason}{place}: lower num_workers (0 loads in this process)") from error
        self._workers = [child for child in multiprocessing.active_children() if child not in others]

    def __next__(self) -> Batch:
        try:
            batch: Batch = next(self._batches)
            return batch
        except (RuntimeError, OSError, EOFError, MemoryError) as error:
            described = _describe(error, self._workers, self._num_workers) if self._num_workers else None
            if described is None:
                raise
            raise described from error


def share(batch: Batch) -> Batch:
    """A batch whose tensors lie in shared memory if this is a loader process.

    It would be moved there anyway, in a thread of the queue, which drops a batch that finds no room and lets the other
    side wait for it for ever; here it is an error of the batch.
    """
    if get_worker_info() is not None:
        targets = batch.targets
        for tensor in (
            batch.images,
            batch.image_sizes_hw,
            batch.original_sizes_hw,
            targets.boxes_xyxy_abs,
            targets.labels,
        ):
            if tensor.numel():
                tensor.share_memory_()
    return batch


def _describe(error: BaseException, workers: Sequence[BaseProcess], num_workers: int) -> LoaderError | None:
    """The fate of the loader processes, None where the error has nothing to do with them."""
    text = str(error)
    fewer = f"lower num_workers (now {num_workers}; 0 loads in this process)"
    is_lost = not text.startswith("Caught ") and isinstance(error, (RuntimeError, ConnectionError, EOFError))
    codes = _exit_codes(workers, 1.0) if is_lost else []
    if _has(text, _SHARED_MEMORY_FULL) or -signal.SIGBUS in codes:
        room = f"the loader processes have no room left in {SHARED_MEMORY}, which has {_size_of_shared_memory()}"
        return LoaderError(f"{room}: make it larger (the shm-size of a container) or {fewer}")
    if _has(text, _OPEN_FILES_SPENT) or getattr(error, "errno", None) == errno.EMFILE:
        raised = f"raise the limit (ulimit -n {OPEN_FILES})"
        return LoaderError(f"too many open files{_open_files_limit()}: {raised} or {fewer}")
    if _has(text, _MEMORY_SPENT) or isinstance(error, MemoryError):
        return LoaderMemoryError(f"a loader process is out of memory: {fewer} or use more memory")
    if -signal.SIGKILL in codes:
        killed = "a loader process was killed (SIGKILL), most likely because memory ran out"
        return LoaderMemoryError(f"{killed}: {fewer} or use more memory")
    if codes:
        code = codes[0]
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        again = "start again, with num_workers=0 if it repeats, to see in this process where"
        return LoaderError(f"a loader process {ended}: {again}")
    return None


def _exit_codes(workers: Sequence[BaseProcess], seconds: float) -> list[int]:
    """Of the processes that ended badly, those ended by a signal first; a connection breaks a moment before the end."""
    for _ in range(10):
        codes = [code for worker in workers if (code := worker.exitcode) not in (None, 0)]
        if codes:
            return sorted(codes)
        for worker in workers:
            worker.join(seconds / 10 / len(workers))
    return []


def _drop_half_made_iterator(error: BaseException) -> None:
    """Drop what the frames of an error hold without the complaint of PyTorch's ``__del__`` that it is not whole."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _has(text: str, parts: Sequence[str]) -> bool:
    return any(part in text for part in parts)


def _size_of_shared_memory() -> str:
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return "an unknown size"
    return f"{status.f_blocks * status.f_frsize / 2**20:.4g} MiB"


def _open_files_limit() -> str:
    with suppress(ImportError):
        import resource

        return f" (at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
    return ""


def _allow_many_open_files() -> None:
    """Raise this process's limit as far as it may: every tensor that a loader process hands over is an open file."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _without_torchs_handler() -> Iterator[None]:
    """Keep PyTorch from raising wherever this process is when a loader process ends.

    In the middle of a step the other ranks would wait for this one; where a batch is fetched, it can tell them.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
