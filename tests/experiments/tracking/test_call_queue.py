"""Calls in a thread of their own: in order, never in the way, one warning at most."""

from __future__ import annotations

import threading
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
    made, begun = [], threading.Event()

    def fail():
        begun.set()
        raise OSError("disk full\nsecond line")

    background = CallQueue("receiver", 100, "do this")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        background.put(fail)
        assert begun.wait(10)
        for _ in range(5):  # while it fails, or after that
            background.put(lambda: made.append(1))
        assert not background.close(timeout=10)
        background.put(lambda: made.append(2))
        assert not background.close(timeout=10)
    (warning,) = map(str, (w.message for w in caught))
    assert warning == "receiver failed: OSError: disk full; do this"
    assert made == []


def test_a_receiver_that_hangs_holds_nobody_up():
    begun, release = threading.Event(), threading.Event()
    background = CallQueue("receiver", 2, "advice")
    background.put(lambda: begun.set() or release.wait())
    assert begun.wait(10)  # the thread hangs in the first call
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
