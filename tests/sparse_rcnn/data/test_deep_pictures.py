"""Pictures of more than 8 bits: scaled by what is known of their range, or refused; never black without a word."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparse_rcnn.data import deep_pictures
from sparse_rcnn.data.image import read_image
from sparse_rcnn.errors import DataError
from sparse_rcnn.pixel_range import PixelRangeWarning
from tests.support.deep_files import png_bytes, tiff_bytes

RAMP = np.linspace(0, 4095, 600).reshape(20, 30).astype(np.uint16)  # of 12 bits
FULL = (RAMP * 16).astype(np.uint16)
UNKNOWN = "which value is white cannot be known; give pixel_range, one of uint8, uint12, uint16, float or two numbers"


def colours(grey: np.ndarray, num_bands: int = 3) -> np.ndarray:
    """Bands that differ in their lower bytes."""
    return np.stack([grey + band for band in range(num_bands)], axis=-1)


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def read(folder: Path, content: bytes, pixel_range: Any = "auto") -> np.ndarray:
    path = folder / "photo"
    path.write_bytes(content)
    image = read_image(path, 7, pixel_range=pixel_range)
    assert image.shape == (3, 20, 30)
    return image.permute(1, 2, 0).numpy()


TWELVE_BITS = {
    "png": png_bytes(RAMP),
    "tiff": tiff_bytes(RAMP),
    "compressed tiff": tiff_bytes(RAMP, compressed=True),
    "big-endian tiff": saved(Image.frombytes("I;16B", (30, 20), RAMP.astype(">u2").tobytes()), "TIFF"),
    "pgm": b"P5 30 20 65535\n" + RAMP.astype(">u2").tobytes(),
    "jpeg 2000": saved(Image.fromarray(RAMP), "JPEG2000"),
}


@pytest.mark.parametrize("content", TWELVE_BITS.values(), ids=TWELVE_BITS)
def test_twelve_bits_in_sixteen_need_their_range(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=rf"photo \(image id 7\) has 16-bit values from 0 to 4095, and {UNKNOWN}"):
        read(tmp_path, content)
    expected = np.repeat((RAMP >> 4).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read(tmp_path, content, "uint12"), expected)
    assert abs(read(tmp_path, content, (0, 4095.0)).astype(int) - expected).max() <= 1
    assert read(tmp_path, content, "uint16").max() == 15  # stated, so taken


COLOURS_OF_TWELVE_BITS = {
    "png": (png_bytes(colours(RAMP)), colours(RAMP)),
    "png with alpha": (
        png_bytes(np.concatenate([colours(RAMP), np.full((20, 30, 1), 65535, np.uint16)], axis=-1)),
        colours(RAMP),
    ),
    "grey png with alpha": (png_bytes(np.stack([RAMP, RAMP * 0 + 65535], axis=-1)), np.stack([RAMP] * 3, axis=-1)),
    "tiff": (tiff_bytes(colours(RAMP)), colours(RAMP)),
    "compressed tiff": (tiff_bytes(colours(RAMP), compressed=True), colours(RAMP)),
    "tiff with alpha": (tiff_bytes(colours(RAMP, 4), tags=[(338, 2)]), colours(RAMP)),
}


@pytest.mark.parametrize(("content", "values"), COLOURS_OF_TWELVE_BITS.values(), ids=COLOURS_OF_TWELVE_BITS)
def test_colours_of_which_pillow_keeps_the_upper_bytes(tmp_path: Path, content: bytes, values: np.ndarray) -> None:
    with Image.open(io.BytesIO(content)) as file:
        assert file.mode in ("RGB", "RGBA")  # 8 bits, nearly black
    with pytest.raises(DataError, match=f"16-bit values from 0 to .*{UNKNOWN}"):
        read(tmp_path, content)
    found = read(tmp_path, content, (0, 4097))
    np.testing.assert_array_equal(found, (values * (255 / 4097)).round().astype(np.uint8))
    assert found.max() == pytest.approx(255, abs=1)


def test_inks_of_sixteen_bits(tmp_path: Path) -> None:
    inks = np.stack([RAMP, RAMP // 2, RAMP // 4, RAMP * 0], axis=-1)
    expected = np.asarray(Image.frombytes("CMYK", (30, 20), (inks >> 4).astype(np.uint8).tobytes()).convert("RGB"))
    with pytest.raises(DataError, match=UNKNOWN):
        read(tmp_path, tiff_bytes(inks, photometric=5))
    np.testing.assert_array_equal(read(tmp_path, tiff_bytes(inks, photometric=5), "uint12"), expected)
    np.testing.assert_array_equal(read(tmp_path, tiff_bytes(inks * 16, photometric=5)), expected)


def test_the_full_range_needs_no_word(tmp_path: Path) -> None:
    for content in (png_bytes(FULL), tiff_bytes(FULL), saved(Image.fromarray(FULL), "JPEG2000")):
        np.testing.assert_array_equal(read(tmp_path, content)[..., 1], FULL >> 8)
        with pytest.raises(DataError, match="has 16-bit values from 0 to 65520, 562 of 600 outside pixel_range uint12"):
            read(tmp_path, content, "uint12")
    for content in (png_bytes(colours(FULL)), tiff_bytes(colours(FULL)), tiff_bytes(colours(FULL), compressed=True)):
        np.testing.assert_array_equal(read(tmp_path, content), colours(FULL) >> 8)


def test_auto_takes_the_range_where_a_value_is_above_a_quarter_of_it(tmp_path: Path) -> None:
    for largest, is_known in ((16383, False), (16384, True)):
        for make in (png_bytes, lambda grey: png_bytes(colours(grey - 2))):
            pixels = np.full((20, 30), 2, np.uint16)
            pixels[3, 4] = largest
            if is_known:
                assert read(tmp_path, make(pixels)).max() in (63, 64)
            else:
                with pytest.raises(DataError, match=UNKNOWN):
                    read(tmp_path, make(pixels))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32])
def test_all_zero_is_black_in_every_range_and_another_constant_is_not_known(tmp_path: Path, dtype: Any) -> None:
    zeros = np.zeros((20, 30), dtype)
    for pixel_range in ("auto", "uint12", "float"):
        assert read(tmp_path, tiff_bytes(zeros), pixel_range).max() == 0
    with pytest.raises(DataError, match=f"from 300 to 300, and {UNKNOWN}"):
        read(tmp_path, tiff_bytes(zeros + 300))


def test_black_colours_are_black(tmp_path: Path) -> None:
    assert read(tmp_path, png_bytes(colours(RAMP * 0) * 0)).max() == 0


def test_a_file_that_states_its_range_is_taken_by_it(tmp_path: Path) -> None:
    grey = b"P5 30 20 4095\n" + RAMP.astype(">u2").tobytes()
    rgb = b"P6 30 20 4095\n" + np.stack([RAMP] * 3, axis=-1).astype(">u2").tobytes()
    packed = np.zeros(900, np.uint8)  # 12 bits each, in 3 bytes two
    first, second = RAMP.reshape(-1, 2).astype(int).T
    packed[0::3], packed[1::3], packed[2::3] = first >> 4, (first & 15) << 4 | second >> 8, second & 255
    tiff = tiff_bytes(packed.reshape(20, 45), tags=[(258, 12)]).replace(
        np.array([256 | 4 << 16, 1, 45], "<u4").tobytes(), np.array([256 | 4 << 16, 1, 30], "<u4").tobytes()
    )
    for content in (grey, rgb, tiff):
        for pixel_range in ("auto", "uint12", "uint16"):
            found = read(tmp_path, content, pixel_range)[..., 0].astype(int)
            assert abs(found - (RAMP >> 4)).max() <= 1


def test_eight_bits_are_taken_as_they_are(tmp_path: Path) -> None:
    grey = (RAMP >> 6).astype(np.uint8)  # dark, and known all the same
    for pixel_range in ("auto", "uint8", "uint12", "uint16", "float", (0, 10)):
        np.testing.assert_array_equal(read(tmp_path, saved(Image.fromarray(grey), "PNG"), pixel_range)[..., 2], grey)


def test_integers_of_32_bits_have_no_usual_range(tmp_path: Path) -> None:
    large = FULL.astype(np.uint32) << 16
    for pixels in (FULL.astype(np.int32), large, RAMP.astype(np.int16) - 2000, FULL.astype(np.int32)):
        with pytest.raises(DataError, match=f"has integer values from .*{UNKNOWN}"):
            read(tmp_path, tiff_bytes(pixels))
    np.testing.assert_array_equal(read(tmp_path, tiff_bytes(FULL.astype(np.int32)), "uint16")[..., 0], FULL >> 8)
    assert abs(read(tmp_path, tiff_bytes(large), (0, 2**32))[..., 0].astype(int) - (FULL >> 8)).max() <= 1
    found = read(tmp_path, tiff_bytes(RAMP.astype(np.int16) - 2000), (-2000, 2095))[..., 0]
    assert abs(found.astype(int) - (RAMP >> 4)).max() <= 1


def test_floats(tmp_path: Path) -> None:
    unit = (RAMP / 4095).astype(np.float32)
    expected = (unit * 255).round()
    for content in (tiff_bytes(unit), b"Pf\n30 20\n-1.0\n" + unit[::-1].astype("<f4").tobytes()):
        np.testing.assert_array_equal(read(tmp_path, content)[..., 0], expected)
        np.testing.assert_array_equal(read(tmp_path, content, "float")[..., 0], expected)
        with pytest.raises(
            DataError, match="values of at most 1, next to black in pixel_range uint8; give pixel_range"
        ):
            read(tmp_path, content, "uint8")
    assert abs(read(tmp_path, tiff_bytes(unit * 255), "uint8")[..., 0] - expected).max() <= 1
    for pixels in (unit * 255, unit / 10, unit - 0.5, unit + 0.25):
        with pytest.raises(DataError, match=f"has floating-point values from .*{UNKNOWN}"):
            read(tmp_path, tiff_bytes(pixels.astype(np.float32)))
    for wrong in (np.nan, np.inf):
        pixels = unit.copy()
        pixels[2, 3] = wrong
        with pytest.raises(DataError, match=r"photo \(image id 7\) has values that are not finite"):
            read(tmp_path, tiff_bytes(pixels), "float")


def test_two_numbers_leave_out_glare_but_not_most_of_a_picture(tmp_path: Path) -> None:
    found = read(tmp_path, tiff_bytes(RAMP), (0, 3000))[..., 0]
    assert found.max() == 255
    assert found[RAMP <= 3000] == pytest.approx(RAMP[RAMP <= 3000] * (255 / 3000), abs=0.51)
    with pytest.raises(DataError, match=r"450 of 600 outside pixel_range \[0,1020\]"):
        read(tmp_path, tiff_bytes(RAMP), (0, 1020))


def test_white_may_be_zero(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, tiff_bytes(FULL, photometric=0))[..., 0], 255 - (FULL >> 8))


def test_what_pillow_would_take_for_something_else_is_refused(tmp_path: Path) -> None:
    for content, message in (
        (tiff_bytes((RAMP >> 6).astype(np.int8)), "signed 8-bit integers"),
        (tiff_bytes(FULL, tags=[(254, 1), (330, 8)]), "begins with a preview"),
        (tiff_bytes(colours(RAMP), tags=[(284, 2)]), "16-bit samples in separate planes; save it interleaved"),
        (tiff_bytes(colours(RAMP).astype(np.float32)), "a TIFF of 32-bit floating-point samples, 3 a pixel, which"),
        (tiff_bytes(RAMP.astype(np.float64)), "a TIFF of 64-bit floating-point samples, 1 a pixel"),
        (saved(Image.fromarray(colours(RAMP >> 8).astype(np.uint8)), "SGI", bpc=2), "16-bit values of at most 4607"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path, content)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"only the upper byte can be read here.* give pixel_range uint16"):
        read(tmp_path, saved(Image.fromarray(colours(RAMP >> 8).astype(np.uint8)), "SGI", bpc=2), "uint12")


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "CMYK", "1", "LA", "RGBA"])
def test_colour_spaces_of_tiff(tmp_path: Path, mode: str) -> None:
    image = (
        Image.new("LAB", (30, 20), (128, 128, 128)) if mode == "LAB" else Image.new("L", (30, 20), 119).convert(mode)
    )
    found = read(tmp_path, saved(image, "TIFF"))
    if mode != "1":
        assert found.min() == pytest.approx(119, abs=1)
        assert found.max() == pytest.approx(119, abs=1)


def test_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (30, 20), grey) for grey in (200, 100)]
    for name in ("GIF", "PNG", "TIFF", "WEBP"):
        content = saved(frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
        assert set(read(tmp_path, content).ravel().tolist()) == {200}


def test_a_picture_of_which_little_is_left_deserves_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As thermal cameras write: detail within a small part of the range."""
    monkeypatch.setattr(deep_pictures, "_flat_pictures", [])
    values = np.random.default_rng(0).integers(29000, 29255, (40, 60)).astype(np.uint16)
    for name in ("a.png", "b.png"):
        Image.fromarray(values).save(tmp_path / name)
    Image.fromarray(np.full((4, 4), 29000, np.uint16)).save(tmp_path / "plain.png")
    read_image(tmp_path / "plain.png")  # one value: nothing is lost
    read_image(tmp_path / "a.png", pixel_range=(29000, 29255))
    assert [w for w in recwarn if w.category is PixelRangeWarning] == []
    read_image(tmp_path / "a.png")
    read_image(tmp_path / "b.png")
    (warned,) = [w for w in recwarn if w.category is PixelRangeWarning]
    assert str(warned.message).startswith(
        f"{tmp_path / 'a.png'} has values from 29000 to 29254, of which 2 of 256 levels"
    )
