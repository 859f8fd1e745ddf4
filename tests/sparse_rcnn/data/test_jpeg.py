"""Colour JPEGs decode to Pillow's pixels, and damaged ones are read or refused as Pillow does."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.jpeg import decode_jpeg
from sparse_rcnn.errors import DataError
from tests.support.paths import shared


def photo(size: tuple[int, int] = (61, 45), seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, as photos have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


def jpeg_bytes(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pillow_pixels(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)


def fast_pixels(content: bytes) -> torch.Tensor | None:
    with Image.open(io.BytesIO(content)) as file:
        return decode_jpeg(file)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [20, 75, 100])
def test_the_pixels_are_pillows(quality: int, subsampling: int, progressive: bool) -> None:
    content = jpeg_bytes(photo(), quality=quality, subsampling=subsampling, progressive=progressive)
    pixels = fast_pixels(content)
    assert pixels is not None
    assert torch.equal(pixels, pillow_pixels(content))
    assert pixels.permute(1, 2, 0).is_contiguous()


def test_real_photos_have_pillows_pixels() -> None:
    files = sorted(shared("data").glob("*/images/*.jpg"))[::8]
    compared = 0
    for path in files:
        content = path.read_bytes()
        with Image.open(path) as file:
            if file.mode != "RGB":
                continue
        pixels = fast_pixels(content)
        assert pixels is not None, path
        assert torch.equal(pixels, pillow_pixels(content)), path
        compared += 1
    assert compared > 20


@pytest.mark.parametrize(
    ("image", "options", "is_upright"),
    [
        (photo(), {}, True),
        (photo().convert("L"), {}, True),
        (photo().convert("CMYK"), {}, True),
        (photo(), {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}, False),
    ],
    ids=["colour", "grey", "inks", "turned"],
)
def test_every_kind_is_read(tmp_path: Path, image: Image.Image, options: dict[str, bytes], is_upright: bool) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(image, **options))
    expected = pillow_pixels(path.read_bytes())
    if not is_upright:  # orientation 6: turn it by a quarter, clockwise
        expected = expected.rot90(-1, (1, 2))
    assert torch.equal(read_image(path), expected)


def test_damaged_files_are_read_or_refused_as_pillow_does(tmp_path: Path) -> None:
    whole, rng = jpeg_bytes(photo(), quality=90), random.Random(0)
    path, outcomes = tmp_path / "a.jpg", {"read": 0, "refused": 0}
    for i in range(60):
        content = bytearray(whole)
        if i % 3 == 0:
            del content[rng.randrange(len(content)) :]
        elif i % 3 == 1:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(len(content))
            content[at:at] = rng.randbytes(5)
        path.write_bytes(content)
        try:
            expected = pillow_pixels(bytes(content))
        except Exception:  # as many kinds as there are damages
            with pytest.raises(DataError, match=r"a\.jpg"):
                read_image(path)
            outcomes["refused"] += 1
            continue
        with Image.open(path) as file:
            if file.getexif().get(0x0112, 1) != 1:
                continue
        assert torch.equal(read_image(path), expected)
        outcomes["read"] += 1
    assert min(outcomes.values()) > 10
