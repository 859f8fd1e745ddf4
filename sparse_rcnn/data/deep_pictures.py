"""Pictures of more than 8 bits a sample, to 8 bits.

Files of 12, 14 and 16 bits look alike, and so do floating-point pictures of any scale: most formats state the type of
their numbers and not the value that is white. ``_known_range`` has the rule for these.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sparse_rcnn.errors import DataError
from sparse_rcnn.pixel_range import AUTO, CHOICES, NAMED_RANGES, PixelRange, PixelRangeWarning

FEW_LEVELS = 8
_flat_pictures: list[str] = []  # that were warned of
Range = tuple[float, float]
# TIFF tags and some of their values.
NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 254, 258, 262, 284, 339
SUB_IFDS = 330  # further pictures, of which the first one is a preview in the raw files of cameras
WHITE_IS_ZERO, ONE_PLANE, UNSIGNED, SIGNED = 0, 1, 1, 2
J2K_START = b"\xff\x4f\xff\x51"  # of a JPEG 2000 codestream, whose first segment states the precision
NUM_COLOURS = {"L": 1, "LA": 1, "CMYK": 4}  # the bands of a mode that are not alpha, 3 in all others


@dataclass(frozen=True)
class Samples:
    """How a picture's samples of more than 8 bits are stored.

    Attributes:
        kind: the type of number, for messages.
        own_range: the usual range of that type; None where it has none.
        is_stated: the file states that its range is this one.
        is_halved: Pillow keeps the upper byte of each 16-bit sample, so that the picture has 8 bits already.
        has_lower_bytes: of those, the lower byte can be read as well.
        white_is_zero: the largest value is black.
        is_unsigned: 32-bit integers that Pillow takes for signed ones.
    """

    kind: str
    own_range: Range | None
    is_stated: bool = False
    is_halved: bool = False
    has_lower_bytes: bool = False
    white_is_zero: bool = False
    is_unsigned: bool = False


UINT16 = Samples("16-bit", NAMED_RANGES["uint16"])
BY_MODE = {
    "I;16": UINT16,
    "I;16L": UINT16,
    "I;16B": UINT16,
    "I;16N": UINT16,
    "I": Samples("integer", None),
    "F": Samples("floating-point", NAMED_RANGES["float"]),
}


def samples_of(image: Image.Image, who: str) -> Samples | None:
    """How the samples of a picture are stored, None for 8 bits and fewer; asked for before the pixels are loaded.

    Raises:
        DataError: samples that Pillow takes for others.
    """
    codec, rawmode, last_argument = _decoder(image)
    own = BY_MODE.get(image.mode)
    if image.format == "TIFF":
        return _samples_of_tiff(own, rawmode, getattr(image, "tag_v2", {}), who)
    if image.format == "FITS" and own == UINT16:
        raise DataError(f"{who} has signed 16-bit integers, which Pillow takes for unsigned ones; save it as TIFF")
    if image.format == "JPEG2000" and (num_bits := _bits_of_jpeg2000(image)) is not None:
        # Pillow spreads what has fewer bits over all 16, or 8 for colours.
        deep = replace(UINT16, is_stated=num_bits < 16, is_halved=own is None)
        return deep if own is not None or num_bits >= 16 else None
    if codec in ("ppm", "ppm_plain"):  # a PNM file states its largest value, and Pillow spreads the range likewise
        is_stated = last_argument != 65535  # what programs write without a thought
        if own is not None:
            return replace(UINT16, is_stated=is_stated)
        return None if is_stated else replace(UINT16, is_halved=True)
    if codec == "SGI16" or (codec == "sgi_rle" and last_argument == 2):
        return replace(UINT16, is_halved=True)
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return UINT16
    if own is None and ";16" in rawmode:
        return replace(UINT16, is_halved=True, has_lower_bytes=image.format == "PNG")
    return own


def _samples_of_tiff(own: Samples | None, rawmode: str, tags: Mapping[int, Any], who: str) -> Samples | None:
    num_bits, number = _first(tags.get(BITS_PER_SAMPLE), 1), _first(tags.get(SAMPLE_FORMAT), UNSIGNED)
    if _first(tags.get(NEW_SUBFILE_TYPE), 0) & 1 and SUB_IFDS in tags:
        raise DataError(f"{who} begins with a preview, as raw files of cameras do; save the picture itself")
    if num_bits <= 8:
        if number == SIGNED:
            raise DataError(f"{who} has signed 8-bit integers, which Pillow takes for unsigned ones; save it unsigned")
        return own  # none, in a TIFF of 8 bits
    is_one_plane = _first(tags.get(PLANAR_CONFIGURATION), ONE_PLANE) == ONE_PLANE
    if own is None:
        if not is_one_plane and ";16" not in rawmode:
            raise DataError(f"{who} is a TIFF of {num_bits}-bit samples in separate planes; save it interleaved")
        premultiplied = rawmode.startswith("RGBa")
        return replace(UINT16, is_halved=True, has_lower_bytes=is_one_plane and not premultiplied)
    if num_bits == 12:
        own = Samples("12-bit", NAMED_RANGES["uint12"], is_stated=True)
    return replace(
        own,
        white_is_zero=_first(tags.get(PHOTOMETRIC), 1) == WHITE_IS_ZERO,
        is_unsigned=num_bits == 32 and number == UNSIGNED,
    )


def to_8_bits(
    image: Image.Image, samples: Samples, pixel_range: PixelRange, who: str, reopen: Callable[[], Image.Image] | None
) -> Image.Image:
    """The picture with 8 bits a sample, its values scaled as ``pixel_range`` says.

    Args:
        image: its pixels loaded.
        samples: what ``samples_of`` gave before that.
        reopen: opens the same file anew; None for a picture without a file.

    Raises:
        DataError: the range cannot be known, or values lie outside it or are not finite.
    """
    if not samples.is_halved:
        values = np.asarray(image)
        grey = _to_bytes(values.view(np.uint32) if samples.is_unsigned else values, samples, pixel_range, who)
        return Image.fromarray(255 - grey if samples.white_is_zero else grey)
    num_colours = NUM_COLOURS.get(image.mode, 3)
    largest = max(np.atleast_2d(image.getextrema())[:num_colours, 1].tolist())
    if pixel_range == "uint16" or (pixel_range == AUTO and largest >= 64):  # a quarter of the range, as below
        return image
    if reopen is not None and samples.has_lower_bytes:
        values = _sixteen_bits(image, reopen)[..., :num_colours]
        pixels = _to_bytes(values, samples, pixel_range, who)
        return Image.frombytes("CMYK" if num_colours == 4 else "RGB", image.size, pixels.tobytes())
    if pixel_range == AUTO:
        raise _unknown(samples, f"of at most {256 * largest + 255}", who)
    raise DataError(
        f"{who} has 16-bit samples of which only the upper byte can be read here: save it with 8 bits a sample or as "
        "an interleaved TIFF, or give pixel_range uint16"
    )


def _sixteen_bits(image: Image.Image, reopen: Callable[[], Image.Image]) -> npt.NDArray[np.uint16]:
    """The samples of a picture of which Pillow keeps the upper bytes.

    Pillow has no mode for them. But it decodes in either byte order, and in the wrong one it keeps the lower bytes.
    """
    with reopen() as again:
        rawmode = _decoder(again)[1]
        # Two samples of two bytes, grey and alpha, are read as four of one.
        swapped = "RGBA" if rawmode.startswith("LA") else _other_byte_order(rawmode)
        tiles = [(*tile[:3], swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])) for tile in again.tile]
        again.tile = [getattr(type(again.tile[0]), "_make", tuple)(tile) for tile in tiles]  # named since Pillow 11
        lower = np.asarray(again).astype(np.uint16)
    if rawmode.startswith("LA"):
        return np.repeat(np.bitwise_or(lower[..., :1] << 8, lower[..., 1:2]), 3, axis=2)
    return np.bitwise_or(np.asarray(image).astype(np.uint16) << 8, lower)


def _other_byte_order(rawmode: str) -> str:
    name, _, order = rawmode.partition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    return f"{name};16{'B' if order.replace('N', native) == 'L' else 'L'}"


def _to_bytes(values: npt.NDArray[Any], samples: Samples, pixel_range: PixelRange, who: str) -> npt.NDArray[np.uint8]:
    is_integer = np.issubdtype(values.dtype, np.integer)
    if not is_integer and not np.isfinite(values).all():
        raise DataError(f"{who} has values that are not finite (NaN or infinity); replace them")
    least, largest = values.min().item(), values.max().item()
    if samples.is_stated and samples.own_range is not None:
        low, high = samples.own_range
    elif pixel_range == AUTO:
        low, high = _known_range(samples, least, largest, who)
    else:
        low, high = NAMED_RANGES[pixel_range] if isinstance(pixel_range, str) else pixel_range
    if not is_integer and isinstance(pixel_range, str) and high >= 255 and 0 < largest <= 1:
        raise DataError(
            f"{who} has {samples.kind} values of at most {largest:.6g}, next to black in pixel_range {pixel_range}; "
            f"give pixel_range, one of {CHOICES}"
        )
    if least < low or largest > high:
        num_outside = int(np.count_nonzero((values < low) | (values > high)))
        # Two numbers may leave out the glare of a few pixels; a name states what a file can hold.
        if isinstance(pixel_range, str) or 2 * num_outside > values.size:
            name = pixel_range if isinstance(pixel_range, str) else f"[{low:g},{high:g}]"
            raise DataError(
                f"{who} has {samples.kind} values from {least:.6g} to {largest:.6g}, {num_outside} of {values.size} "
                f"outside pixel_range {name}; give pixel_range, one of {CHOICES}"
            )
        values = values.clip(low, high)
    if is_integer and low == 0 and high in (255, 4095, 65535):
        grey = (values >> {255: 0, 4095: 4, 65535: 8}[int(high)]).astype(np.uint8)
    else:
        precise = values.astype(np.float64 if is_integer else np.float32)
        grey = ((precise - low) * (255 / (high - low))).round().astype(np.uint8)
    if pixel_range == AUTO and not samples.is_stated:
        _warn_if_flat(grey, low, high, least, largest, who)
    return grey


def _warn_if_flat(grey: npt.NDArray[np.uint8], low: float, high: float, least: float, largest: float, who: str) -> None:
    """A word, once in a process, on a picture with detail of which a few levels are left, as thermal cameras write."""
    num_levels = int(grey.max()) - int(grey.min()) + 1
    if _flat_pictures or num_levels > FEW_LEVELS or largest - least < 4 * FEW_LEVELS * (high - low) / 65535:
        return
    _flat_pictures.append(who)
    warnings.warn(
        f"{who} has values from {least:.6g} to {largest:.6g}, of which {num_levels} of 256 levels are left in the "
        f"range {low:g}..{high:g}; give pixel_range=[LOW,HIGH] to spread them (said of the first such picture)",
        PixelRangeWarning,
        stacklevel=2,
    )


def _known_range(samples: Samples, least: float, largest: float, who: str) -> Range:
    """The range of a file that does not state one, where it can be known.

    It is that of the type of number where some value lies above a quarter of it. Where none does, the picture may be
    dark, or one of fewer bits: to take either for granted would turn some data sets black without a word, and to
    decide it picture by picture would give the pictures of one data set different scales.

    Raises:
        DataError: it cannot be known.
    """
    if least == largest == 0:
        return 0, 1  # black in every range
    own = samples.own_range
    if own is None or least < own[0] or not own[1] / 4 < largest <= own[1]:
        raise _unknown(samples, f"from {least:.6g} to {largest:.6g}", who)
    return own


def _unknown(samples: Samples, values: str, who: str) -> DataError:
    return DataError(
        f"{who} has {samples.kind} values {values}, and which value is white cannot be known; "
        f"give pixel_range, one of {CHOICES}"
    )


def _decoder(image: Image.Image) -> tuple[str, str, Any]:
    """Name, raw mode and last argument of what decodes a picture; empty where its pixels are loaded."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return "", "", None
    codec, arguments = tiles[0][0], tiles[0][3]
    if isinstance(arguments, str):
        return codec, arguments, None
    if not isinstance(arguments, tuple) or not arguments:
        return codec, "", None
    return codec, arguments[0] if isinstance(arguments[0], str) else "", arguments[-1]


def _first(value: Any, default: int) -> int:
    """Of a TIFF tag, which holds one number or several."""
    values = value if isinstance(value, tuple) else (value,)
    return values[0] if values and isinstance(values[0], int) else default


def _bits_of_jpeg2000(image: Image.Image) -> int | None:
    """The precision that the header states; None where the file is closed or has no such header."""
    file = getattr(image, "fp", None)
    if file is None or getattr(file, "closed", False):
        return None
    position = file.tell()
    file.seek(0)
    header = file.read(1 << 16)
    file.seek(position)
    start = header.find(J2K_START)
    at = start + 42  # the marker of the codestream, then of the segment, and 38 bytes of it
    return (header[at] & 0x7F) + 1 if start >= 0 and at < len(header) else None
