"""Files opened under a limit of our own, whatever Pillow's is, which stays as it was."""

from __future__ import annotations

import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS, open_picture
from sparse_rcnn.errors import DataError
from tests.support.configs import checked
from tests.support.pictures import picture, to_pil

Image.init()
FORMATS = {"PNG", "JPEG", "GIF", "WEBP", "TIFF", "ICO", "BMP", "JPEG2000", "AVIF"} & Image.SAVE.keys()


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("limit", [1300, 10])  # Pillow warns above one of them and refuses above twice
def test_pillow_s_limit_does_not_count(
    tmp_path: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    image = to_pil(picture(40, 40))
    image.save(tmp_path / "p", name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert read_image(tmp_path / "p").shape[0] == 3
    assert len(recwarn) == 0
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillow_s_limit_holds_for_everybody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_pil(picture(40, 40)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    found: list[str] = []

    def open_in_another_thread() -> None:
        try:
            Image.open(tmp_path / "p.png")
        except Image.DecompressionBombError as error:
            found.append(str(error))

    with open_picture(tmp_path / "p.png", "p.png", None):
        thread = threading.Thread(target=open_in_another_thread)
        thread.start()
        thread.join()
    assert len(found) == 1
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "p.png")


def test_our_limit_names_the_file_its_size_and_the_argument(tmp_path: Path) -> None:
    to_pil(picture(40, 60)).save(tmp_path / "p.png")
    message = r"p.png \(image id 3\) is 40 x 60 pixels .*, 0.0024 megapixels, more than max_megapixels 0.002; give a"
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "p.png", 3, max_megapixels=0.002)
    for limit in (0.0024, None):
        assert read_image(tmp_path / "p.png", 3, max_megapixels=limit).shape == (3, 40, 60)


def test_the_limit_comes_before_the_pixels_are_read(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "p.png")
    whole = (tmp_path / "p.png").read_bytes()
    header = b"IHDR" + np.array([60_000, 40_000], ">u4").tobytes() + whole[24:29]
    check = zlib.crc32(header).to_bytes(4, "big")
    (tmp_path / "p.png").write_bytes(whole[:12] + header + check + whole[33:])  # 2400 megapixels that are not there
    with pytest.raises(DataError, match=r"is 40000 x 60000 pixels .*2400 megapixels"):
        read_image(tmp_path / "p.png")


def test_the_configuration_and_the_library_have_one_limit() -> None:
    for option in ("paper", "small"):
        assert checked(f"input={option}")["input"]["max_megapixels"] == MAX_MEGAPIXELS


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    image = picture()
    for name in ("photo.jpg", "photo", "photo.txt", "photo.tif"):
        to_pil(image).save(tmp_path / name, "PNG")
        assert (read_image(tmp_path / name) == image).all()
    for content, reason in ((b"", "it is empty"), (b"hello", "it is in no format that Pillow reads")):
        (tmp_path / "photo.jpg").write_bytes(content)
        with pytest.raises(DataError, match=f"photo.jpg cannot be read as an image: {reason}; replace or remove"):
            read_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty; replace or remove the file"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 7\n", "it is a pointer of Git LFS: fetch the file itself"),
        (b"\n<!DOCTYPE html><html>404</html>", r"it is a text \(HTML, XML or SVG\)"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "it is HEIC, which Pillow does not read; convert it to JPEG or PNG"),
        (b"text", "it is in no format that Pillow reads"),
    ],
)
def test_what_a_file_is_that_is_no_picture(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "p.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"p.jpg cannot be read as an image: {reason}"):
        read_image(tmp_path / "p.jpg")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe.jpg cannot be read as an image: it is not a regular file"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"cannot be read as an image: it is a folder; replace or remove it$"):
        read_image(tmp_path)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(DataError, match=r"loop.jpg cannot be read as an image: Too many levels of symbolic links;"):
        read_image(tmp_path / "loop.jpg")
