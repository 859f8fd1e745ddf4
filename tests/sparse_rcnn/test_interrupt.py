"""Stop requests that arrive in the middle of other code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from sparse_rcnn.data.image import read_image
from sparse_rcnn.interrupt import Interrupted, StopRequest


class SignallingPicture(ImageFile.ImageFile):
    """A format whose decoder gets a signal in the middle of its work."""

    format = "SIGNALLING"

    def _open(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise SyntaxError("not reached: the signal ends the reading")


def test_a_signal_while_an_image_is_read_is_not_an_error_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.init()
    monkeypatch.setattr(Image, "ID", [*Image.ID, SignallingPicture.format])
    monkeypatch.setitem(Image.OPEN, SignallingPicture.format, (SignallingPicture, lambda start: start == b"signal"))
    (tmp_path / "image.png").write_bytes(b"signal")
    with StopRequest() as stop, stop.at_once(7), pytest.raises(Interrupted, match="stopped by SIGTERM after step 7"):
        read_image(tmp_path / "image.png")
