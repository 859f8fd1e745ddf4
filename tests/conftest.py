"""Settings of all tests, and fixtures of more than one file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """The test machines have two cores, which several test runs may share."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def _sigint_is_heeded() -> None:
    """A shell starts background jobs with SIGINT ignored, and the commands under test would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _hooks_of_the_interpreter() -> Iterator[None]:
    """W&B puts its own in their place, and leaves them there."""
    hooks = sys.exit, sys.excepthook
    yield
    sys.exit, sys.excepthook = hooks


@pytest.fixture
def tiny_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 64 KiB, or of the test module's DISK_SIZE, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = getattr(request.module, "DISK_SIZE", "64k")
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
