"""A loader process that dies ends the run, and all its processes, with one line; the run then goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import training

pytestmark = pytest.mark.slow


def test_on_rank_1_it_is_told_by_rank_1_and_ends_both(tmp_path: Path) -> None:
    long = training.overrides(tmp_path, "schedule.length=100000", "train.checkpoint_every=20", "data.num_workers=1")
    group = training.start_group(long, 2)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*/checkpoints/*/training_state.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = [
        pid for task in Path(f"/proc/{group[1].pid}/task").glob("*/children") for pid in task.read_text().split()
    ]
    (worker,) = [pid for pid in children if b"experiments.train" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(worker), signal.SIGKILL)
    (code, _, err), (other_code, _, other_err) = [training.finish(process, 60) for process in group]
    assert (code, other_code) == (1, 1)
    assert err == ""
    assert other_err.startswith("error: data.num_workers: a loader process was killed (SIGKILL), most likely because ")
    assert other_err.endswith("; data.cache_images=false keeps no decoded images\n")
    assert other_err.count("\n") == 1
    run = training.only_run(tmp_path)
    assert training.status(run)["error"].startswith("PeerError: rank 1: a loader process was killed")
    assert list(run.glob("checkpoints/*/training_state.pt")), "nothing to go on from"


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_no_room_in_shared_memory(tmp_path: Path, command: str) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("a /dev/shm of one's own needs root and unshare")
    if command == "train":
        words, key = [*training.overrides(tmp_path, "data.num_workers=1")], "data.num_workers"
    else:
        words, key = [str(training.train(training.overrides(tmp_path))), "--num-workers=1"], "--num-workers"
    mount = 'mount -t tmpfs -o size=52k tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-m", f"experiments.{command}", *words],
        env=training.environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "mount:" in done.stderr:
        pytest.skip("mounting a tmpfs is not allowed here")
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {key}: the loader processes have no room left in /dev/shm, which has 0.05078 MiB")
    assert "Traceback" not in done.stderr
