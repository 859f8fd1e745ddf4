"""Calls in a thread of their own: in order, never in the way, one warning at most."""

from __future__ import annotations

import threading
import time
import warnings

import pytest

from experiments.tracking.call_queue import CallQueue


def test_calls_are_made_in_order_and_close_waits_for_them():
    made = []
    background = CallQueue("receiver", 100, "advice")
    for i in range(50):
        background.put(lambda i=i: made.append(i))
    assert background.close(timeout=10)
    assert made == list(range(50))


def test_a_failing_call_warns_once_and_ends_it():
    made = []

    def fail():
        raise OSError("disk full\nsecond line")

    background = CallQueue("receiver", 100, "do this")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        background.put(fail)
        background._thread.join(10)
        for _ in range(5):
            background.put(lambda: made.append(1))
        assert not background.close(timeout=10)
    (warning,) = map(str, (w.message for w in caught))
    assert warning == "receiver failed: OSError: disk full; do this"
    assert made == []


def test_a_receiver_that_hangs_holds_nobody_up():
    release = threading.Event()
    background = CallQueue("receiver", 2, "advice")
    background.put(release.wait)
    while not background._queue.empty():  # until the thread hangs in the first call
        time.sleep(0.001)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            background.put(lambda: None)
    assert [str(w.message).split(";")[0] for w in caught] == ["receiver is too slow: 2 calls wait"]
    assert not background.close(timeout=0.01)
    release.set()


def test_close_gives_up_after_its_time():
    release = threading.Event()
    background = CallQueue("receiver", 2, "advice")
    background.put(release.wait)
    with pytest.warns(UserWarning, match=r"did not take everything within 0\.05 s"):
        assert not background.close(timeout=0.05)
    release.set()
