"""Stop requests that arrive in the middle of other code."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from sparse_rcnn.data.image import read_image
from sparse_rcnn.interrupt import Interrupted, StopRequest


def test_a_signal_while_an_image_is_read_is_not_an_error_of_the_image(tmp_path: Path) -> None:
    pipe = tmp_path / "image.png"
    os.mkfifo(pipe)  # nobody writes: opening it waits
    signalled = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    with StopRequest() as stop, stop.at_once(7):
        signalled.start()
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 7"):
            read_image(pipe)
