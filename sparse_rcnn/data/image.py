"""Image files to RGB tensors, whatever their mode and orientation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageFile
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from sparse_rcnn.data.deep_pictures import samples_of, to_8_bits
from sparse_rcnn.data.jpeg import decode_jpeg
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS, open_picture, reason_of
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.pixel_range import AUTO, PixelRange

EXIF_ORIENTATION = 0x0112
# What each EXIF orientation asks for. PIL's own exif_transpose also rewrites the rest of the metadata, which
# fails on files whose pixels are fine.
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    path: str | Path,
    image_id: int | None = None,
    size_hw: tuple[int, int] | None = None,
    pixel_range: PixelRange = AUTO,
    max_megapixels: float | None = MAX_MEGAPIXELS,
) -> tv_tensors.Image:
    """Read an image file as RGB uint8 (3, H, W), upright.

    Args:
        path: any format and mode Pillow reads, found by content; greyscale, palette and CMYK become RGB, alpha is
            left out, of several frames or pages the first is read.
        image_id: named in the errors; None for an image that belongs to no annotation file.
        size_hw: height and width of the image's record. The EXIF orientation is applied unless only the
            stored, unrotated picture has this size. None applies it always.
        pixel_range: the values that are black and white in files of more than 8 bits a sample that do not state them
            (semantics.md#pixel-values).
        max_megapixels: refuse larger pictures before their pixels are read; None refuses none.

    Raises:
        DataError: the file is missing, truncated or no image, or has another size than its record, too many pixels,
            or values whose range is unknown.
    """
    who = str(path) if image_id is None else f"{path} (image id {image_id})"
    try:
        with open_picture(path, who, max_megapixels) as file:
            if is_plain_jpeg(file, size_hw) and (pixels := decode_jpeg(file)) is not None:
                return tv_tensors.Image(pixels)
            stored = to_rgb(file, who, pixel_range, lambda: Image.open(path))
            upright = to_upright(stored, exif_orientation(file))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{who} does not exist") from error
    # Decoders fail in every way there is: OSError, SyntaxError, ValueError, struct.error, IndexError ...
    except Exception as error:
        reason = reason_of(error)
        raise DataError(f"{who} cannot be read as an image: {reason}; replace or remove the file") from error
    return F.to_image(upright if size_hw is None else matching(stored, upright, size_hw, who))


def is_plain_jpeg(file: ImageFile.ImageFile, size_hw: tuple[int, int] | None) -> bool:
    """Whether an opened file is a JPEG of three channels, upright as stored and of the size of its record, if any."""
    if file.format != "JPEG" or file.mode != "RGB":  # asked of a PNG for its orientation, Pillow loads the pixels
        return False
    return exif_orientation(file) == 1 and size_hw in (None, (file.height, file.width))


def matching(stored: Image.Image, upright: Image.Image, size_hw: tuple[int, int], who: str) -> Image.Image:
    """The one of both that has the record's size, the upright one where both have.

    The record decides because the boxes were drawn in its frame: an annotation tool that shows the stored
    pixels writes their size, one that honours EXIF writes the rotated size.
    """
    height, width = size_hw
    for image in (upright, stored):
        if image.size == (width, height):
            return image
    raise DataError(
        f"{who} is {upright.height} x {upright.width} pixels (height x width), its record says "
        f"{height} x {width}; restore the file or correct the record"
    )


def to_upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TRANSPOSE[orientation]) if orientation in TRANSPOSE else image


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # broken metadata does not make the pixels unusable
        return 1


def to_rgb(
    image: Image.Image, who: str, pixel_range: PixelRange, reopen: Callable[[], Image.Image] | None = None
) -> Image.Image:
    """Any PIL mode to 8-bit RGB.

    Raises: DataError, see ``sparse_rcnn.data.deep_pictures``.
    """
    samples = samples_of(image, who)
    image.load()
    if samples is not None:
        image = to_8_bits(image, samples, pixel_range, who, reopen)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns about the transparency
    if image.mode == "La":  # from which PIL converts to this one alone
        image = image.convert("LA")
    return image.convert("RGB")
