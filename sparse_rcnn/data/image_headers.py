"""The sizes of pictures and whether their files are whole, without decoding them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sparse_rcnn.data.deep_pictures import samples_of
from sparse_rcnn.data.image import exif_orientation, read_image
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS, open_picture, reason_of
from sparse_rcnn.errors import DataError
from sparse_rcnn.pixel_range import AUTO, PixelRange

NUM_THREADS = 8  # of reading: waiting for a disk or a network, and decoders that let other threads run
NUM_WAITING = 32 * NUM_THREADS  # items given to the threads at a time
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
TAIL = 4096  # bytes: an end marker may be followed by a maker's notes
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ImageHeader:
    """The header of a picture file.

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


def read_header(
    path: str | Path,
    whole: bool = False,
    pixel_range: PixelRange = AUTO,
    max_megapixels: float | None = MAX_MEGAPIXELS,
) -> ImageHeader:
    """The header of a picture; a file whose end looks cut off is decoded to be sure.

    Args:
        path: of the file.
        whole: decode the picture in any case (a JPEG in an eighth of its size, which costs a third of the time).
        pixel_range, max_megapixels: of `read_image`. A picture of more than 8 bits a sample is read as a whole, since
            its values decide whether it can be used.
    """
    who = str(path)
    try:
        with open_picture(path, who, max_megapixels) as file:
            width, height = file.size
            is_deep = samples_of(file, who) is not None
            ends = read_ends(path)
            is_decoded = not is_deep and (whole or not ends_whole(ends, file.format))
            if is_decoded:
                file.draft(file.mode, (max(1, width // 8), max(1, height // 8)))
                file.load()
            # Pillow decodes a PNG in search of an orientation that may come after the pixels.
            has_orientation = is_decoded or file.format != "PNG" or "exif" in file.info or b"eXIf" in ends.tail
            is_turned = has_orientation and exif_orientation(file) in TURNED
        if is_deep:
            read_image(path, pixel_range=pixel_range, max_megapixels=max_megapixels)
    except FileNotFoundError:
        return ImageHeader((0, 0), False, "does not exist")
    except DataError as error:
        return ImageHeader((0, 0), False, str(error).removeprefix(f"{who} "))
    # Decoders fail in every way there is: OSError, SyntaxError, ValueError, struct.error, IndexError ...
    except Exception as error:
        reason = reason_of(error)
        return ImageHeader((0, 0), False, f"cannot be read as an image: {reason}")
    return ImageHeader((height, width), is_turned, None)


@dataclass(frozen=True)
class FileEnds:
    """The size of a file in bytes, its first bytes, and the last as ``tail``."""

    size: int
    start: bytes
    tail: bytes


def read_ends(path: str | Path) -> FileEnds:
    """The ends of a file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(max(0, size - TAIL))
        return FileEnds(size, start, file.read())


def ends_whole(ends: FileEnds, format: str | None) -> bool:
    """Whether the file of a picture ends as its format asks for; False where that cannot be said."""
    if format == "JPEG":
        _, marker, rest = ends.tail.rpartition(b"\xff\xd9")
        # Tables or a scan after it: it ended a thumbnail.
        return bool(marker) and b"\xff\xdb" not in rest and b"\xff\xda" not in rest
    if format == "PNG":
        return b"IEND" in ends.tail
    if format == "WEBP":
        return ends.size >= 8 + int.from_bytes(ends.start[4:8], "little")
    if format == "BMP":
        return ends.size >= int.from_bytes(ends.start[2:6], "little") > 0
    return False


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of a function in the order of the items, from threads, which are never far ahead of the reader."""
    remaining = iter(items)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        waiting = deque(pool.submit(function, item) for item in islice(remaining, NUM_WAITING))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
