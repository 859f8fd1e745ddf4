"""Picture files opened with Pillow, under a limit of size that is ours and not the process's."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from sparse_rcnn.data.foreign_formats import LFS, LFS_START
from sparse_rcnn.errors import DataError

MAX_MEGAPIXELS = 500.0
"""About 20,000 x 25,000 pixels, of which reading takes some 7 GB of memory."""

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
TIFF_STARTS = (b"II*\x00", b"MM\x00*")
_own_limit = threading.local()


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Pass over Pillow's own limit of size in this thread.

    The limit, ``PIL.Image.MAX_IMAGE_PIXELS``, is one number of the whole process. A program that uses this library may
    rely on it, in other threads at the same moment, so that number is left alone, and so are the filters of warnings.
    """
    before = getattr(_own_limit, "is_active", False)
    _own_limit.is_active = True
    try:
        yield
    finally:
        _own_limit.is_active = before


_pillow_check = Image._decompression_bomb_check


def _check_unless_passed_over(*arguments: Any, **options: Any) -> None:
    if not getattr(_own_limit, "is_active", False):
        _pillow_check(*arguments, **options)


# Pillow and its plug-ins look it up here at every picture.
Image._decompression_bomb_check = _check_unless_passed_over


@contextmanager
def open_picture(path: str | Path, who: str, max_megapixels: float | None) -> Iterator[ImageFile.ImageFile]:
    """A picture file, opened and not loaded; its format is found by content, whatever its suffix.

    Raises:
        DataError: it has more than ``max_megapixels`` million pixels, or is a TIFF of a kind that Pillow cannot read.
        OSError and others: as Pillow.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
        found = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise DataError(f"{who} cannot be read as an image: it is {found}; replace or remove it")
    with without_pillow_limit():
        try:
            file = Image.open(path)
        except UnidentifiedImageError as error:
            raise DataError(f"{who} cannot be read as an image: {_why_unidentified(Path(path))}") from error
        with file:
            check_megapixels(file, who, max_megapixels)
            yield file


def check_megapixels(image: Image.Image, who: str, max_megapixels: float | None) -> None:
    """Refuse a picture of more than so many million pixels; None refuses none.

    Raises: DataError.
    """
    width, height = image.size
    if max_megapixels is not None and width * height > max_megapixels * 1e6:
        raise DataError(
            f"{who} is {height} x {width} pixels (height x width), {width * height / 1e6:.4g} megapixels, more "
            f"than max_megapixels {max_megapixels:g}; give a larger max_megapixels, or cut the picture into parts"
        )


def reason_of(error: Exception) -> str:
    """Why a picture cannot be read, in one line without its path."""
    said = error.strerror if isinstance(error, OSError) else None
    return " ".join((said or str(error)).split()) or type(error).__name__


def _why_unidentified(path: Path) -> str:
    with open(path, "rb") as file:
        header = file.read(8)
        start = (header + file.read(504)).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(len(header))
        if not header:
            return "it is empty; replace or remove the file"
        if start.startswith(LFS_START):
            return LFS
        if start[:1] == b"<":
            return "it is a text (HTML, XML or SVG); replace or remove the file"
        if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
            return "it is HEIC, which Pillow does not read; convert it to JPEG or PNG"
        if header[:4] in TIFF_STARTS:
            try:
                tags = TiffImagePlugin.ImageFileDirectory_v2(header)
                file.seek(tags.next)
                tags.load(file)
                bits = tags.get(258, (1,))
                kinds = {1: "unsigned integer", 2: "signed integer", 3: "floating-point"}
                kind = kinds.get(tags.get(339, (1,))[0], "other")
                return (
                    f"a TIFF of {bits[0]}-bit {kind} samples, {len(bits)} a pixel, which Pillow does not read; save it "
                    "with 8 bits a sample and at most 4 a pixel"
                )
            except Exception:  # a TIFF that is damaged from the start on
                pass
    return "it is in no format that Pillow reads; replace or remove the file"
