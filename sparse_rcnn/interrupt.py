"""Stop requests: a signal asks, the training loop answers at the next step boundary."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The run stopped because it was asked to; its checkpoint is saved. ``signal_number`` is that of the request.

    Like KeyboardInterrupt not an ``Exception``: a signal may arrive anywhere, and code that makes an error of every
    exception, such as the reading of an image, has to let it through.
    """

    def __init__(self, step: int, signal_number: int) -> None:
        self.step, self.signal_number = step, signal_number
        name = signal.Signals(signal_number).name if signal_number else "a signal to another rank"
        super().__init__(f"stopped by {name} after step {step}; the checkpoint is saved, run again to continue")


class StopRequest:
    """Remembers that SIGINT, SIGTERM, SIGUSR1 or SIGUSR2 arrived. A second Ctrl-C stops at once.

    Use as a context manager around the training; the previous handlers come back afterwards. The loop asks at every
    step boundary; what has none, such as an evaluation, runs in ``at_once``.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.signal_number = 0
        self._saved_step: int | None = None
        self._pid = os.getpid()

    @contextmanager
    def at_once(self, saved_step: int) -> Iterator[None]:
        """Within, a request ends what runs: for what a resume repeats, with the checkpoint of ``saved_step`` saved.

        Raises:
            Interrupted: on request, also one from before.
        """
        if self.requested:
            raise Interrupted(saved_step, self.signal_number)
        self._saved_step = saved_step
        try:
            yield
        finally:
            self._saved_step = None

    @property
    def requested(self) -> bool:
        return self.signal_number != 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        # User signals ask for a requeue as well (submitit), which the SIGTERM that may come with it must not hide.
        if self.signal_number not in (signal.SIGUSR1, signal.SIGUSR2):
            self.signal_number = number
        saved_step, self._saved_step = self._saved_step, None
        if saved_step is not None and os.getpid() == self._pid:  # and not in a worker that was just forked
            raise Interrupted(saved_step, self.signal_number)

    def __enter__(self) -> StopRequest:
        self._previous = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def leave_stopping_to_parent(worker_id: int) -> None:
    """Let a data worker end when its parent says so, and not by itself (DataLoader's ``worker_init_fn``).

    Ctrl-C, SLURM and systemd signal all processes of a job: a worker that died of it would tear down the training
    before it has saved. SIGTERM counts where the parent sends it, which is how it ends its workers at exit.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_request_of, args=(parent.pid,), daemon=True).start()


def _exit_on_request_of(pid: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
        pass
    os._exit(0)
