"""The death of a loader process is one line where a batch is asked for."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, _utils
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from sparse_rcnn.data.loader_processes import LoaderError, WatchedLoader, share
from sparse_rcnn.structures import Batch, Targets


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch looks every five seconds whether a loader process lives, and waits as long for its end."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


class Images(Dataset[int]):
    """Four items; reading the last one does something instead."""

    def __init__(self, action: Callable[[], Any] = lambda: None) -> None:
        self.action = action

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 3:
            self.action()
        return index


def batch_of(ids: list[int]) -> Batch:
    sizes = torch.full((len(ids), 2), 32)
    targets = Targets.from_lists([torch.zeros(0, 4)] * len(ids), [torch.zeros(0, dtype=torch.int64)] * len(ids))
    return share(Batch(torch.full((len(ids), 3, 32, 32), float(ids[0])), sizes, sizes, tuple(ids), targets))


def watched(action: Callable[[], Any] = lambda: None, num_workers: int = 1) -> WatchedLoader:
    return WatchedLoader(DataLoader(Images(action), batch_size=2, collate_fn=batch_of, num_workers=num_workers))


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def fail(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_as_from_the_loader(num_workers: int) -> None:
    loader = watched(num_workers=num_workers)
    batches = list(loader)
    assert [batch.image_ids for batch in batches] == [(0, 1), (2, 3)]
    assert [batch.images.is_shared() for batch in batches] == [num_workers > 0] * 2
    assert [float(batch.images.mean()) for batch in batches] == [0, 2]
    assert len(loader) == 2


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (kill(signal.SIGKILL), r"killed \(SIGKILL\), most likely because memory ran out: lower num_workers \(now 1; 0"),
        (kill(signal.SIGBUS), r"no room left in /dev/shm, which has \S+ MiB: make it larger .* or lower num_workers"),
        (
            lambda: os._exit(3),
            r"ended with exit code 3: start again, with num_workers=0 if it repeats",
        ),
        (fail(MemoryError()), r"a loader process is out of memory: lower num_workers .* or use more memory"),
        (
            fail(RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left (28)")),
            r"no room left in /dev/shm",
        ),
        (fail(OSError(24, "Too many open files")), r"too many open files \(at most \d+\): raise the limit \(ulimit -n"),
        (fail(RuntimeError("received 0 items of ancdata")), r"too many open files"),
    ],
)
def test_what_a_loader_process_ends_of_is_one_line(action: Callable[[], None], message: str) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(watched(action))
    assert signal.getsignal(signal.SIGCHLD) == handler  # PyTorch's own would raise in the middle of a step
    with pytest.raises(LoaderError, match=message) as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_data_set_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="a fault") as caught:
        list(watched(fail(RuntimeError("a fault"))))
    assert not isinstance(caught.value, LoaderError)
    with pytest.raises(MemoryError):
        list(watched(fail(MemoryError()), num_workers=0))  # there is no other process to speak of


def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", fail(OSError(12, "Cannot allocate memory")))
    with pytest.raises(LoaderError, match="1 loader processes cannot be started: Cannot allocate memory: lower n"):
        iter(watched())


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[0]), before[1]))
        list(watched())
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(65536, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
