"""What a stopped run does in a job of a cluster: it is requeued, or waits for the scheduler to end it."""

from __future__ import annotations

import os
import signal
import time

from sparse_rcnn.interrupt import Interrupted

# SLURM kills what has not ended KillWait (30 s by default) after its SIGTERM.
WAIT_SECONDS = 300.0


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def leave_to_scheduler(stopped: Interrupted) -> None:
    """In a submitit job under SLURM do not end by oneself; elsewhere return at once.

    To end would leave a result behind, and the submitter would take the run for done. By now submitit's handlers are
    back. SIGUSR2 (time limit, preemption) is given to the one that requeues the job: it ends rank 0, and the other
    ranks wait here. SIGTERM alone is a requeue or a cancellation that SLURM carries out, and a SIGUSR2 may follow it.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    handler = signal.getsignal(signal.SIGUSR2)
    if stopped.signal_number == signal.SIGUSR2 and callable(handler):
        handler(signal.SIGUSR2, None)
    time.sleep(WAIT_SECONDS)
