"""Fonts for class names: the first that has all characters, parts where none has, a warning where it takes one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, ImageFont

from sparse_rcnn import fonts
from sparse_rcnn.structures import Detections
from sparse_rcnn.visualize import draw_detections

CACHES = (fonts.runs, fonts._warn_of_missing, fonts._own_font, fonts._system_fonts)


@pytest.fixture(autouse=True)
def only_bundled_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What is installed on this machine does not count."""
    monkeypatch.delenv(fonts.FONT_VARIABLE, raising=False)
    monkeypatch.setattr(fonts.sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


def make_font(path: Path, characters: str) -> str:
    """A font in which the characters are filled squares and others have an outline of another size."""

    def box(size: int) -> object:
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for point in ((50, size), (50 + size, size), (50 + size, 0)):
            pen.lineTo(point)
        pen.closePath()
        return pen.glyph()

    names = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): name for c, name in zip(characters, names[1:], strict=True)})
    builder.setupGlyf({name: box(700 if name != ".notdef" else 300) for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return str(path)


def one_box(label: int) -> Detections:
    return Detections(torch.tensor([[5.0, 5.0, 40.0, 30.0]]), torch.tensor([0.9]), torch.tensor([label]))


def families(text: str) -> list[tuple[str, str | None]]:
    return [(part, font.getname()[0]) for part, font in fonts.runs(text, 16)]


def test_english_is_drawn_by_pillow_s_own_font_as_ever() -> None:
    own = ImageFont.load_default(size=16)
    pictures = []
    for _ in range(2):
        picture = Image.new("RGB", (200, 40))
        if pictures:
            fonts.draw_text(ImageDraw.Draw(picture), (3, 5), "traffic light 0.93", (255, 255, 255), 16)
        else:
            ImageDraw.Draw(picture).text((3, 5), "traffic light 0.93", fill=(255, 255, 255), font=own)
        pictures.append(np.asarray(picture))
    np.testing.assert_array_equal(*pictures)
    assert fonts.font_files("traffic light 0.93") == [None]


@pytest.mark.parametrize("name", ["café", "Größe", "Ελλάδα", "кошка", "Łódź", "قطة", "naïve →", "e\u0301te\u0301"])
def test_matplotlib_s_font_draws_many_writings_whole(name: str) -> None:
    assert families(f"{name} 0.5") == [(f"{name} 0.5", "DejaVu Sans")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fonts.warn_of_missing([name])


def test_parts_are_drawn_by_the_fonts_that_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fonts.FONT_VARIABLE, make_font(tmp_path / "Cats.ttf", "猫犬"))
    assert families("猫é 犬") == [("猫", "Cats"), ("é ", "DejaVu Sans"), ("犬", "Cats")]
    assert families("猫犬") == [("猫犬", "Cats")]
    assert fonts.length("猫犬", 20) == pytest.approx(32, abs=1)
    picture = Image.new("L", (60, 30))
    fonts.draw_text(ImageDraw.Draw(picture), (0, 0), "猫a", 255, 20)
    square = np.asarray(picture)[:, :16]
    assert (square == 255).sum() > 150  # filled, and no outline of a box
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fonts.warn_of_missing(["猫", "café"])


def test_fonts_of_the_system_are_found(tmp_path: Path) -> None:
    make_font(tmp_path / "share" / "fonts" / "deep" / "CatsBold.ttf", "猫")
    make_font(tmp_path / "share" / "fonts" / "deep" / "Cats.ttf", "猫")
    (tmp_path / "share" / "fonts" / "Broken.ttf").write_bytes(b"no font")
    assert families("猫") == [("猫", "Cats")]


def test_a_character_that_no_font_has_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["dog", "猫", "ไทย", "family 👨‍👩", "猫 2"]
    message = (
        r"no font here has the characters 猫 ไ ท ย 👨 👩 of class '猫', 'ไทย', .* and 1 more, .* give its file in the "
        "environment variable SPARSE_RCNN_FONT"
    )
    with pytest.warns(UserWarning, match=message):
        draw_detections(Image.new("RGB", (60, 40)), one_box(label=1), names, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_detections(Image.new("RGB", (60, 40)), one_box(label=1), names, 0.3)


def test_a_variable_that_names_no_font_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (tmp_path / "absent.ttf", Path(__file__)):
        fonts._own_font.cache_clear()
        fonts.runs.cache_clear()
        monkeypatch.setenv(fonts.FONT_VARIABLE, str(wrong))
        with pytest.warns(UserWarning, match=f"SPARSE_RCNN_FONT={wrong} cannot be read as a font"):
            assert families("é") == [("é", "DejaVu Sans")]


@pytest.mark.parametrize("name", ["a\nb", "tab\t", "", "nul\x00", "\ud800", "\u200f"])
def test_names_that_no_font_can_draw_as_they_are(name: str) -> None:
    picture = draw_detections(Image.new("RGB", (60, 40)), one_box(label=0), [name], 0.3)
    assert picture.size == (420, 280)
