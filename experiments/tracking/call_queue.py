"""Calls made one after the other in a thread of their own, for what must never stop or slow a training."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable


class CallQueue:
    """A queue of calls and the thread that makes them.

    The first call that fails ends it: one warning, and everything after that is dropped. So does a queue that is full,
    that is, a receiver that is too slow.

    Args:
        name: what a warning calls the receiver.
        max_waiting: calls that may wait.
        advice: the end of a warning.
    """

    def __init__(self, name: str, max_waiting: int, advice: str) -> None:
        self._name, self._advice = name, advice
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(max_waiting)
        self._is_dead = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], None]) -> None:
        """Make this call soon; returns at once."""
        if self._is_dead.is_set():
            return
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._give_up(f"is too slow: {self._queue.maxsize} calls wait")

    def close(self, timeout: float) -> bool:
        """Wait for the calls so far to end; whether they did, all of them, within ``timeout`` seconds."""
        if not self._is_dead.is_set():
            try:
                self._queue.put(None, timeout=timeout)
            except queue.Full:
                self._give_up("takes nothing more")
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._give_up(f"did not take everything within {timeout:g} s")
        return not self._is_dead.is_set()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            if self._is_dead.is_set():
                return
            try:
                call()
            except Exception as error:
                lines = str(error).strip().splitlines()
                self._give_up(f"failed: {type(error).__name__}: {lines[0] if lines else ''}")
                return

    def _give_up(self, why: str) -> None:
        if not self._is_dead.is_set():
            self._is_dead.set()
            warnings.warn(f"{self._name} {why}; {self._advice}", stacklevel=3)
