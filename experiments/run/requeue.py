"""What a stopped run does in a job of a cluster: it is requeued, or waits for the scheduler to end it."""

from __future__ import annotations

import os
import signal
import time

from sparse_rcnn.interrupt import Interrupted

WAIT_SECONDS = 3600.0  # SLURM kills what has not ended within its GraceTime or KillWait
NODE_LOSS_SECONDS = 600.0  # SLURM finds a node lost after SlurmdTimeout, 300 s by default


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def leave_to_scheduler(stopped: Interrupted) -> None:
    """In a submitit job under SLURM do not end by oneself; elsewhere return at once.

    To end would leave a result behind, and the submitter would take the run for done. By now submitit's handlers are
    back. A user signal (time limit, preemption) is given to the one that requeues the job: it ends rank 0, and the
    other ranks wait here. SIGTERM alone is a requeue or a cancellation that SLURM carries out; a SIGUSR2 may follow it.
    """
    if not _is_slurm_job():
        return
    number = stopped.signal_number
    handler = signal.getsignal(number) if number in (signal.SIGUSR1, signal.SIGUSR2) else None
    if callable(handler):
        handler(number, None)
    time.sleep(WAIT_SECONDS)


def wait_for_loss_of_node() -> None:
    """In a job of several nodes, give SLURM the time to find one of them lost, and to requeue the job.

    A connection that breaks is seen in seconds; to fail then would end the job for good.
    """
    if _is_slurm_job() and int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1:
        time.sleep(NODE_LOSS_SECONDS)


def _is_slurm_job() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
