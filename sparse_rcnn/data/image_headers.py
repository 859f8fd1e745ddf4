"""The sizes of pictures and whether their files are whole, without decoding them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image

from sparse_rcnn.data.image import exif_orientation

NUM_THREADS = 8  # of reading: waiting for a disk or a network, and decoders that let other threads run
TAIL = 4096  # bytes: an end marker may be followed by a maker's notes
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its picture.

    Attributes:
        stored_size_hw: of the pixels as they are stored.
        is_turned: whether the EXIF orientation swaps height and width.
        problem: why the picture cannot be read, in words; None for a good one. The sizes are then 0 x 0.
    """

    stored_size_hw: tuple[int, int]
    is_turned: bool
    problem: str | None

    @property
    def upright_size_hw(self) -> tuple[int, int]:
        height, width = self.stored_size_hw
        return (width, height) if self.is_turned else (height, width)

    def has_size(self, size_hw: tuple[int, int]) -> bool:
        """Whether the picture has this size, upright or as it is stored."""
        return size_hw in (self.stored_size_hw, self.upright_size_hw)


def read_header(path: str | Path | BinaryIO, whole: bool = False) -> ImageHeader:
    """The header of a picture; a file whose end looks cut off is decoded to be sure.

    Args:
        path: of the file, or its content.
        whole: decode the picture in any case (a JPEG in an eighth of its size, which costs a third of the time).
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            ends = read_ends(path)
            is_decoded = whole or not ends_whole(ends, file.format)
            if is_decoded:
                file.draft(file.mode, (max(1, width // 8), max(1, height // 8)))
                file.load()
            # Pillow decodes a PNG in search of an orientation that may come after the pixels.
            has_orientation = is_decoded or file.format != "PNG" or "exif" in file.info or b"eXIf" in ends.tail
            is_turned = has_orientation and exif_orientation(file) in (5, 6, 7, 8)
    except FileNotFoundError:
        return ImageHeader((0, 0), False, "does not exist")
    # Decoders fail in every way there is: OSError, SyntaxError, ValueError, struct.error, IndexError ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return ImageHeader((0, 0), False, f"cannot be read as an image: {reason}")
    return ImageHeader((height, width), is_turned, None)


@dataclass(frozen=True)
class FileEnds:
    """The size of a file in bytes, its first bytes, and the last as ``tail``."""

    size: int
    start: bytes
    tail: bytes


def read_ends(path: str | Path | BinaryIO) -> FileEnds:
    """The ends of a file, or of an open one, which stays where it is."""
    if not isinstance(path, (str, Path)):
        place = path.tell()
        path.seek(0)
        content = path.read()
        path.seek(place)
        return FileEnds(len(content), content[:12], content[-TAIL:])
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(max(0, size - TAIL))
        return FileEnds(size, start, file.read())


def ends_whole(ends: FileEnds, format: str | None) -> bool:
    """Whether the file of a picture ends as its format asks for; False where that cannot be said."""
    if format == "JPEG":
        return b"\xff\xd9" in ends.tail
    if format == "PNG":
        return b"IEND" in ends.tail
    if format == "WEBP":
        return ends.size >= 8 + int.from_bytes(ends.start[4:8], "little")
    if format == "BMP":
        return ends.size >= int.from_bytes(ends.start[2:6], "little") > 0
    return False


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of a function in the order of the items, from threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(function, items)
