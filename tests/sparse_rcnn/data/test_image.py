"""Image files of every kind come as RGB, upright, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from sparse_rcnn.data.image import read_image
from sparse_rcnn.errors import DataError


def quadrants(height: int = 40, width: int = 60) -> np.ndarray:
    """Red, green / blue, white: every rotation and mirroring looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    pixels[:h, :w], pixels[:h, w:], pixels[h:, :w], pixels[h:, w:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    )
    return pixels


# The stored picture that a viewer shows upright, per EXIF orientation (the table of the EXIF standard).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def save_with_orientation(path: Path, orientation: int, upright: np.ndarray) -> np.ndarray:
    stored = np.ascontiguousarray(STORED[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, quality=100, subsampling=0, exif=exif)
    return stored


def close(image: torch.Tensor, pixels: np.ndarray) -> bool:
    expected = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return image.shape == expected.shape and bool((image.float() - expected.float()).abs().mean() < 3)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path, orientation):
    path = tmp_path / "photo.jpg"
    save_with_orientation(path, orientation, quadrants())
    assert close(read_image(path), quadrants())
    assert close(read_image(path, 7, (40, 60)), quadrants())


def test_a_record_of_the_stored_size_keeps_the_stored_picture(tmp_path):
    path = tmp_path / "photo.jpg"
    stored = save_with_orientation(path, 6, quadrants())
    assert stored.shape[:2] == (60, 40)
    assert close(read_image(path, 7, (60, 40)), stored)
    with pytest.raises(DataError, match=r"photo.jpg \(image id 7\) is 40 x 60 pixels .* its record says 41 x 60"):
        read_image(path, 7, (41, 60))


def test_broken_exif_does_not_cost_the_image(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(quadrants()).save(path, quality=100, subsampling=0, exif=b"Exif\x00\x00garbage")
    assert close(read_image(path, 7, (40, 60)), quadrants())


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    pixels = Image.fromarray(quadrants())
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    converted = pixels.quantize(8) if mode == "P" else pixels.convert(mode)
    converted.save(path, **({"quality": 100, "subsampling": 0} if mode == "CMYK" else {}))
    with Image.open(path) as file:
        assert file.mode == mode
    image = read_image(path, 1, (40, 60))
    assert image.shape == (3, 40, 60)
    assert image.dtype == torch.uint8
    corners = image[:, [0, 0, 39, 39], [0, 59, 0, 59]].tolist()
    if mode in ("L", "LA"):
        assert corners == [[76, 150, 29, 255]] * 3  # 0.299 R + 0.587 G + 0.114 B
    elif mode == "1":
        assert set(image.flatten().tolist()) == {0, 255}
        assert torch.equal(image[0], image[1])
        assert image[0, 20:, 30:].float().mean() == 255
    else:
        assert close(image, quadrants())


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, recwarn):
    path = tmp_path / "photo.png"
    Image.fromarray(quadrants()).quantize(4).save(path, transparency=b"\x10\x20\x30")
    assert close(read_image(path), quadrants())
    assert len(recwarn) == 0


def test_sixteen_bit_greyscale_keeps_its_contrast(tmp_path):
    path = tmp_path / "photo.png"
    ramp = np.linspace(0, 65535, 60).astype(np.uint16)[None].repeat(40, 0)
    Image.fromarray(ramp).save(path)
    image = read_image(path, 1, (40, 60))
    assert image[2, 0].tolist() == (ramp[0] >> 8).tolist()


def test_files_that_are_no_whole_image(tmp_path):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    noise.save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    noise.save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "cut.png", "text.jpg", "empty.jpg", "folder.jpg"):
        with pytest.raises(DataError, match=rf"{name} \(image id 3\) cannot be read as an image: .+") as caught:
            read_image(tmp_path / name, 3, (40, 60))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"gone.jpg \(image id 3\) does not exist"):
        read_image(tmp_path / "gone.jpg", 3, (40, 60))
    with pytest.raises(DataError, match=r"text.jpg cannot be read"):
        read_image(tmp_path / "text.jpg")
