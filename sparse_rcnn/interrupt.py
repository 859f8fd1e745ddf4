"""Stop requests: a signal asks, the training loop answers at the next step boundary."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(Exception):
    """The run stopped because it was asked to; its checkpoint is saved. ``signal_number`` says by what."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step, self.signal_number = step, signal_number
        name = signal.Signals(signal_number).name if signal_number else "a signal to another rank"
        super().__init__(f"stopped by {name} after step {step}; the checkpoint is saved, run again to continue")


class StopRequest:
    """Remembers that SIGINT, SIGTERM or SIGUSR1 arrived. A second Ctrl-C stops at once.

    Use as a context manager around the training; the previous handlers come back afterwards.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal_number = 0

    @property
    def requested(self) -> bool:
        return self.signal_number != 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def __enter__(self) -> StopRequest:
        self._previous = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def ignore_stop_signals(worker_id: int) -> None:
    """A data worker leaves them to its parent, which ends it in order (DataLoader's ``worker_init_fn``).

    Ctrl-C and SLURM signal all processes of a job: a worker that died of it would tear down the training
    before it has saved.
    """
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
