"""The pictures of a folder, and what else lies in it, which is named and not passed over without a word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sparse_rcnn.errors import UserError

# Formats that Pillow recognises and cannot read.
UNREADABLE_FORMATS = {"BUFR", "GRIB", "HDF5", "MPEG"}
# Formats with a signature that nothing else begins with; for files of another suffix, or none.
# Not TIFF: raw files of cameras begin as one, with a small preview.
SIGNED_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "JPEG2000")


def find_pictures(given: Path, out: Path) -> tuple[list[Path], str | None]:
    """The file itself, whatever it is, or the pictures below a folder, sorted; and a line about the folder's others.

    Below a folder, files with a suffix of a picture and those that begin as one are taken; hidden ones and the folder
    ``out`` are left aside.

    Raises:
        UserError: there is no such file or folder, or no picture in it.
    """
    if given.is_file():
        return [given], None
    if not given.is_dir():
        raise UserError(f"{given}: there is no such image or folder")
    suffixes = readable_suffixes()
    pictures, others, hidden = [], [], []
    for path in _files(given, os.path.realpath(out)):
        if any(part.startswith(".") for part in path.relative_to(given).parts):
            hidden.append(path)
        elif _is_picture(path, suffixes):
            pictures.append(path)
        else:
            others.append(path)
    left_aside = _describe(given, sorted(others), sorted(hidden))
    if not pictures:
        raise UserError(f"folder {given} holds no picture{f', only {left_aside}' if left_aside else ': it is empty'}")
    return sorted(pictures), f"{given}: left aside {left_aside}" if left_aside else None


def readable_suffixes() -> set[str]:
    """Of the formats that this installation of Pillow reads, in small letters with the dot."""
    from PIL import Image

    Image.init()
    readable = {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in UNREADABLE_FORMATS
    }
    return readable | {".mpo"}  # which is opened as a JPEG


def _files(folder: Path, own: str) -> Iterator[Path]:
    for parent, subfolders, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
        yield from (Path(parent, name) for name in subfolders if name.startswith("."))  # named, and not entered
        # Pictures of an earlier call are not input.
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != own
        ]


def _is_picture(path: Path, suffixes: set[str]) -> bool:
    from PIL import Image

    from sparse_rcnn.data.pillow_files import without_pillow_limit

    if path.suffix.lower() in suffixes:
        return path.is_file() or not path.exists()  # a link to nothing is for its reader to name; a pipe is not read
    if not path.is_file():
        return False
    try:
        formats = [name for name in SIGNED_FORMATS if name in Image.OPEN]  # Pillow may be built without some
        with without_pillow_limit(), Image.open(path, formats=formats):
            return True
    except Exception:  # decoders fail in every way there is
        return False


def _describe(folder: Path, others: list[Path], hidden: list[Path]) -> str:
    parts = []
    if others:
        counts = Counter(
            (path.suffix.lower() or "without a suffix") if path.is_file() else "pipe or device" for path in others
        )
        kinds = [f"{number} {kind}" for kind, number in counts.most_common(4)]
        more = f" and {len(counts) - 4} more kinds" if len(counts) > 4 else ""
        first = others[0].relative_to(folder)
        parts.append(f"{_files_of(others)} that Pillow does not know ({', '.join(kinds)}{more}; the first is {first})")
    if hidden:
        name = hidden[0].relative_to(folder)
        some = "1 hidden file or folder" if len(hidden) == 1 else f"{len(hidden)} hidden files or folders"
        parts.append(f"{some} (the first is {name})")
    return " and ".join(parts)


def _files_of(paths: list[Path]) -> str:
    return f"{len(paths)} file{'s' if len(paths) > 1 else ''}"
