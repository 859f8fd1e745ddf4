"""Every picture of a data set looked at before it is needed: can it be read, and has it the size of its record."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.image_headers import ImageHeader, in_threads, read_header
from sparse_rcnn.pixel_range import PixelRange


def picture_paths(coco: CocoAnnotations, folder: Path) -> list[Path]:
    """The files of the pictures."""
    return [folder / str(name) for name in coco.file_names]


def find_problems(
    coco: CocoAnnotations,
    folder: Path,
    pixel_range: PixelRange,
    max_megapixels: float | None,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[int, str]:
    """The faults of pictures, by index, from their headers and the ends of their files: the cheap check.

    Args:
        pixel_range, max_megapixels: of `read_image`.
        progress: called with the number of pictures that are done.
    """
    problems = {}
    read = partial(read_header, pixel_range=pixel_range, max_megapixels=max_megapixels)
    for i, header in enumerate(in_threads(read, picture_paths(coco, folder))):
        if (problem := problem_of(header, coco.image_sizes_hw[i].tolist())) is not None:
            problems[i] = problem
        progress(1)
    return problems


def decode_all(
    coco: CocoAnnotations,
    folder: Path,
    pixel_range: PixelRange,
    max_megapixels: float | None,
    progress: Callable[[int], object] = lambda count: None,
) -> tuple[dict[int, str], dict[str, list[int]]]:
    """The faults of pictures, by index, and the indices of equal files by the digest of their content.

    Every picture is decoded.

    Args:
        pixel_range, max_megapixels: of `read_image`.
        progress: called with the number of pictures that are done.
    """
    problems: dict[int, str] = {}
    same: defaultdict[str, list[int]] = defaultdict(list)
    read = partial(_decode, pixel_range=pixel_range, max_megapixels=max_megapixels)
    for i, (header, digest) in enumerate(in_threads(read, picture_paths(coco, folder))):
        if (problem := problem_of(header, coco.image_sizes_hw[i].tolist())) is not None:
            problems[i] = problem
        same[digest].append(i)
        progress(1)
    return problems, dict(same)


def problem_of(header: ImageHeader, size_hw: Sequence[int]) -> str | None:
    """Why a picture cannot be used with a record of this size; None for a good one."""
    height, width = size_hw
    if header.problem is None and min(height, width) > 0 and not header.has_size((height, width)):
        found = "{} x {}".format(*header.upright_size_hw)
        swapped = "; the two are swapped" if header.has_size((width, height)) else ""
        return f"is {found} pixels (height x width), its record says {height} x {width}{swapped}"
    return header.problem


def in_both(first: Mapping[str, list[int]], second: Mapping[str, list[int]]) -> list[tuple[int, int]]:
    """Pairs of pictures of two data sets with equal content."""
    return [(first[digest][0], second[digest][0]) for digest in first if digest in second and digest]


def shared_files(first: Iterable[Path], second: Iterable[Path]) -> list[Path]:
    """Files that two data sets both have, by path."""
    known = {path.absolute() for path in first}
    return [path for path in second if path.absolute() in known]


def _decode(path: Path, pixel_range: PixelRange, max_megapixels: float | None) -> tuple[ImageHeader, str]:
    header = read_header(path, True, pixel_range, max_megapixels)
    if header.problem is not None:
        return header, ""
    return header, hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
