"""Fonts for class names in any writing: Pillow's own has the letters of English alone."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import ImageDraw, ImageFont

FONT_VARIABLE = "SPARSE_RCNN_FONT"
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
# In the names of files, cuts that are read less easily than the upright one.
_UNUSUAL_CUTS = ("bold", "italic", "oblique", "black", "light", "thin", "cond", "mono", "serif", "math", "display")
_ABSENT = "\U0010ffff"  # a code point that never stands for a character
_PROBE_SIZE = 16

Font = ImageFont.FreeTypeFont


class FontWarning(UserWarning):
    """A text that no font here can draw, or a font that cannot be read."""


def one_line(text: str) -> str:
    """The text without what no font draws: line breaks and other control characters, halves of characters."""
    return "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else "\ufffd" if unicodedata.category(c) == "Cs" else c
        for c in text
    )


@functools.lru_cache(maxsize=4096)
def runs(text: str, size: int) -> tuple[tuple[str, Font], ...]:
    """The text in parts, each with a font that has its characters: one part where one font has them all.

    Pillow's own font comes first, then the one of the environment variable ``SPARSE_RCNN_FONT``, matplotlib's DejaVu
    Sans and the system's fonts. Characters that none has are drawn by the first, as empty boxes.
    """
    files = font_files(text)
    for file in files:
        if not missing(text, file):
            return ((text, load(file, size)),)
    parts: list[tuple[str, str | None]] = []
    for character in text:
        file = next((file for file in files if not missing(character, file)), files[0])
        if parts and not _is_drawn(character):  # joins the one before it
            file = parts[-1][1]
        if parts and parts[-1][1] == file:
            parts[-1] = (parts[-1][0] + character, file)
        else:
            parts.append((character, file))
    return tuple((part, load(file, size)) for part, file in parts)


def length(text: str, size: int) -> float:
    """The width of the text in pixels."""
    return sum(font.getlength(part) for part, font in runs(text, size))


def draw_text(
    draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, fill: tuple[int, int, int], size: int
) -> None:
    """Draw the text, its left upper corner at ``xy``."""
    parts = runs(text, size)
    if len(parts) == 1:
        draw.text(xy, parts[0][0], fill=fill, font=parts[0][1])
        return
    x, baseline = xy[0], xy[1] + load(None, size).getmetrics()[0]
    for part, font in parts:
        draw.text((x, baseline), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def font_files(text: str) -> list[str | None]:
    """Font files that have the characters of the text between them, by preference; None is Pillow's own font.

    As few as it takes: no file is searched for where Pillow's font has all characters. Those that are in no font are
    in no file of the list.
    """
    chosen: list[str | None] = [None]
    wanted = missing(text, None)
    for file in _candidates():
        if not wanted:
            break
        if left := wanted & missing("".join(sorted(wanted)), file):
            if left != wanted:
                chosen.append(file)
                wanted = left
        else:
            return [None, file, *chosen[1:]]  # which has all of it
    return chosen


def warn_of_missing(names: Iterable[str]) -> None:
    """Warn, once for these names, of those with characters that no font here has."""
    _warn_of_missing(tuple(names))


@functools.lru_cache(maxsize=64)
def _warn_of_missing(names: tuple[str, ...]) -> None:
    drawn_as_boxes: dict[str, set[str]] = {}
    for name in names:
        text = one_line(name)
        absent = set.intersection(*(missing(text, file) for file in font_files(text)))
        if absent:
            drawn_as_boxes[name] = absent
    if drawn_as_boxes:
        shown = ", ".join(repr(name) for name in list(drawn_as_boxes)[:3])
        more = f" and {len(drawn_as_boxes) - 3} more" if len(drawn_as_boxes) > 3 else ""
        absent = set.union(*drawn_as_boxes.values())
        characters = [c for c in dict.fromkeys("".join(map(one_line, names))) if c in absent]
        listed = " ".join(characters[:12]) + (" ..." if len(characters) > 12 else "")
        warnings.warn(
            f"no font here has the characters {listed} of class {shown}{more}, pictures show boxes in their place: "
            f"install a font that has them, or give its file in the environment variable {FONT_VARIABLE}",
            FontWarning,
            stacklevel=3,
        )


def missing(text: str, file: str | None) -> set[str]:
    """The characters of the text that a font lacks."""
    return {character for character in set(text) if _is_drawn(character) and not _has(file, character)}


@functools.lru_cache(maxsize=256)
def load(file: str | None, size: int) -> Font:
    """A font; None is Pillow's own."""
    font = ImageFont.load_default(size=size) if file is None else ImageFont.truetype(file, size)
    assert isinstance(font, Font), "Pillow without FreeType has no scalable font"
    return font


def _is_drawn(character: str) -> bool:
    """Not so what only joins, orders or varies its neighbours, or is a space; fonts may have no glyph for these."""
    return unicodedata.category(character) not in ("Cf", "Cc", "Zs", "Zl", "Zp") and not (
        "\ufe00" <= character <= "\ufe0f"
    )


@functools.lru_cache(maxsize=1 << 16)
def _has(file: str | None, character: str) -> bool:
    """Whether a font draws a character otherwise than one that it lacks."""
    font = _probe(file)
    return font is not None and _picture_of(font, character) != _picture_of(font, _ABSENT)


def _picture_of(font: Font, character: str) -> tuple[object, bytes]:
    try:
        mask = font.getmask(character)
        return mask.size, bytes(mask)
    except OSError:  # a glyph that FreeType cannot draw
        mask = font.getmask(_ABSENT)
        return mask.size, bytes(mask)


@functools.cache
def _probe(file: str | None) -> Font | None:
    """A font without the shaping of texts, which would draw other glyphs than the character's own."""
    try:
        if file is None:
            return load(None, _PROBE_SIZE).font_variant(layout_engine=ImageFont.Layout.BASIC)
        return ImageFont.truetype(file, _PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)
    except Exception:  # fonts of bitmaps alone, damaged files
        return None


def _candidates() -> Iterator[str]:
    if own := _own_font():
        yield own
    yield from _bundled_fonts()
    yield from _system_fonts()


@functools.cache
def _own_font() -> str | None:
    file = os.environ.get(FONT_VARIABLE)
    if not file:
        return None
    if _probe(file) is None:
        warnings.warn(f"{FONT_VARIABLE}={file} cannot be read as a font and is left out", FontWarning, stacklevel=2)
        return None
    return file


@functools.cache
def _bundled_fonts() -> Sequence[str]:
    """DejaVu Sans, which comes with matplotlib; found without importing that."""
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        return ()
    file = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return (str(file),) if file.is_file() else ()


@functools.cache
def _system_fonts() -> Sequence[str]:
    """Font files of the system and the user, upright cuts first."""
    home, environment = Path.home(), os.environ
    if sys.platform == "win32":
        folders = [Path(environment.get("WINDIR", r"C:\Windows"), "Fonts")]
        folders.append(Path(environment.get("LOCALAPPDATA", home), "Microsoft", "Windows", "Fonts"))
    elif sys.platform == "darwin":
        folders = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        shared = environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        parents = [environment.get("XDG_DATA_HOME") or str(home / ".local/share"), *shared.split(":")]
        folders = [home / ".fonts", *(Path(parent, "fonts") for parent in parents)]
    found = {
        os.path.join(parent, name)
        for folder in folders
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    }

    def rank(file: str) -> tuple[int, str]:
        name = os.path.basename(file).lower().replace("sansserif", "sans")
        return sum(cut in name for cut in _UNUSUAL_CUTS), file

    return sorted(found, key=rank)
