"""Picture files of more than 8 bits a sample, which Pillow reads and does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_SIGNED_KINDS = {"u": 1, "i": 2, "f": 3}


def png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a sample: (H, W) grey, (H, W, 2) with alpha, 3 RGB, 4 RGBA."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff_bytes(
    pixels: np.ndarray, photometric: int | None = None, compressed: bool = False, tags: Sequence[tuple[int, Any]] = ()
) -> bytes:
    """A little-endian TIFF of any type of numbers; ``tags`` of 16 bits are added or replace others."""
    height, width = pixels.shape[:2]
    num_bands = 1 if pixels.ndim == 2 else pixels.shape[2]
    content = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    content = zlib.compress(content) if compressed else content
    shorts: dict[int, Sequence[int]] = {
        258: [8 * pixels.dtype.itemsize] * num_bands,
        259: [8 if compressed else 1],
        262: [(2 if num_bands >= 3 else 1) if photometric is None else photometric],
        277: [num_bands],
        339: [_SIGNED_KINDS[pixels.dtype.kind]] * num_bands,
    }
    shorts.update({tag: [value] if isinstance(value, int) else value for tag, value in tags})
    longs = {256: [width], 257: [height], 273: [0], 278: [height], 279: [len(content)]}
    entries = {tag: ("H", 3, values) for tag, values in shorts.items()}
    entries.update({tag: ("I", 4, values) for tag, values in longs.items()})
    start = 8 + 2 + 12 * len(entries) + 4
    beyond = sum(2 * len(values) for code, _, values in entries.values() if code == "H" and len(values) > 2)
    entries[273] = ("I", 4, [start + beyond])
    directory, outside = b"", b""
    for tag, (code, kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{code}", *values)
        if len(packed) > 4:
            place = struct.pack("<I", start + len(outside))
            outside += packed
            packed = place
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + b"\0\0\0\0" + outside + content
