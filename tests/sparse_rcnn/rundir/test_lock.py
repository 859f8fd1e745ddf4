"""One process at a time holds a run; a killed one releases it, once its workers are gone too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.lock import is_held, lock_run
from tests.support.paths import ROOT, names

HOLDER = """
import sys
from pathlib import Path
from sparse_rcnn.rundir.lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
# Newer filelocks close the lock in a forked worker: this one has it however the parent was locked.
HOLDER_WITH_WORKER = """
import fcntl, json, os, socket, sys
from pathlib import Path
path = Path(sys.argv[1])
lock = open(path / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
(path / "lock_holder.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
if os.fork() > 0:
    print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path, code: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a run until it is killed, and its worker, if any, until its standard input ends."""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_living_holder_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holding(tmp_path) as holder, monkeypatch.context() as patch:
        assert is_held(tmp_path)
        patch.setattr(time, "sleep", lambda seconds: pytest.fail("waits for a holder that lives"))
        with (
            pytest.raises(UserError, match=rf"is in use by process {holder.pid} on .*two processes"),
            lock_run(tmp_path),
        ):
            pass


def test_a_killed_holder_releases_the_run(tmp_path: Path) -> None:
    with holding(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not is_held(tmp_path)
        with lock_run(tmp_path):
            assert json.loads((tmp_path / "lock_holder.json").read_text())["pid"] == os.getpid()
        assert "lock_holder.json" not in names(tmp_path)


def test_the_workers_of_a_killed_holder_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holding(tmp_path, HOLDER_WITH_WORKER) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert is_held(tmp_path), "its worker has the lock"
        sleep, waits = time.sleep, []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                assert holder.stdin is not None
                holder.stdin.close()  # which the worker waits for
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", wait)
        with lock_run(tmp_path):
            assert len(waits) >= 3
            assert json.loads((tmp_path / "lock_holder.json").read_text())["pid"] == os.getpid()
        assert "lock_holder.json" not in names(tmp_path)
