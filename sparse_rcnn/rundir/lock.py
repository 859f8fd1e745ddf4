"""The lock of a run directory: one process at a time trains or writes a run."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.json_files import read_object, reason, write_json_atomic
from sparse_rcnn.rundir.provenance import now

DEAD_HOLDER_PATIENCE = 15.0  # seconds; workers of a killed process may keep its lock until they notice
# Seconds; what a lost node left running may train on, or finish the run. The other ranks wait for 30 minutes.
ORPHAN_PATIENCE = 1500.0


def is_held(path: Path) -> bool | None:
    """Whether a process of this host trains the run in `path`; None where that cannot be found out.

    A shared lock needs no right to write and does not disturb others who look. Whoever starts the run in this very
    moment finds no living holder and tries again (`DEAD_HOLDER_PATIENCE`).
    """
    try:
        descriptor = os.open(path / layout.LOCK, os.O_RDONLY)
    except FileNotFoundError:  # each holder leaves it behind
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without flock
        return None
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def lock_run(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the run in `path`; the kernel releases it when this process ends, however it ends.

    Args:
        path: the run directory.
        wait: be patient with another holder: after a requeue it is the run's own former self, on its way out.

    Raises:
        UserError: another process holds it (says which), or the folder cannot be written.
    """
    lock = FileLock(path / layout.LOCK)
    holder = path / layout.LOCK_HOLDER
    try:
        found = _read(holder)
        patience = DEAD_HOLDER_PATIENCE if not found or _is_dead(found) else 0
        lock.acquire(timeout=ORPHAN_PATIENCE if wait else patience)
    except Timeout:
        who = _describe(_read(holder))
        message = f"{path} is in use by {who}; two processes may not train the same run at once"
        raise UserError(message) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be locked: {reason(error)}") from error
    except NotImplementedError as error:  # older filelocks, where the file system has no flock
        raise UserError(f"{path}: cannot be locked: {error}") from error
    try:
        # Who holds it stands in a file of its own: older filelocks empty the lock file when they try it.
        write_json_atomic(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _read(holder: Path) -> dict[str, Any]:
    try:
        return read_object(holder)
    except UserError:  # not there yet, or the holder died in writing it
        return {}


def _is_dead(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and is someone else's
        return False
    return False


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
