"""Annotations brought together with the pictures they are of: files, sizes and frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.data.annotations import CocoAnnotations, read_annotations
from sparse_rcnn.data.box_formats import fits
from sparse_rcnn.data.boxes_outside import without_boxes_outside
from sparse_rcnn.data.findings import ERROR, LEFT_OUT, NOTE, REPAIRED
from sparse_rcnn.data.image_headers import in_threads, read_header
from sparse_rcnn.data.image_names import find_files
from sparse_rcnn.errors import DataError

TURNED, SWAPPED = 1, 2  # by EXIF; in the record


def read_annotated_images(
    annotations: str | Path,
    images: str | Path,
    drop_degenerate_boxes: bool,
    max_images: int | None,
    excluded_categories: Sequence[str | int],
    skip_unreadable: bool,
    max_megapixels: float | None,
) -> CocoAnnotations:
    """The annotations of pictures that are there, with their sizes; faults are collected in the findings.

    File names are those of the files. Sizes that the file lacks are those of the pictures. Where boxes were drawn on
    upright pictures and the records have the stored sizes, sizes are the upright ones. Boxes wholly outside of their
    picture are left out.

    Args:
        annotations, images: the JSON file and the folder its file names are relative to.
        drop_degenerate_boxes, excluded_categories: of `read_annotations`.
        max_images: keep so many images, the first by id; None keeps all.
        skip_unreadable: leave out pictures whose file is missing or cannot be opened; else they are faults.
        max_megapixels: of `read_image`.

    Raises:
        DataError: the file cannot be read as one of COCO's format, or the folder not at all.
    """
    coco = read_annotations(annotations, drop_degenerate_boxes, excluded_categories)
    for section, values in (("images", coco.image_ids), ("categories", coco.categories)):
        if not len(values):
            if any(finding.kind in ("no id", "ids") for finding in coco.findings.of_level(ERROR)):
                coco.raise_errors()  # records without an id are why it is empty
            if section == "categories" and excluded_categories:
                raise DataError(f"{coco.source}: excluded_categories leaves no category; take one off the list")
            raise DataError(f"{coco.source}: '{section}' is empty, there is nothing to detect or to detect it in")
    coco = coco.first_images(max_images)
    coco = _located(coco, Path(images), skip_unreadable)
    coco = _with_sizes(coco, Path(images), skip_unreadable, max_megapixels)
    coco = _upright(coco, Path(images), max_megapixels)
    return without_boxes_outside(coco)


def image_name(coco: CocoAnnotations, index: int) -> str:
    """The words for an image in messages."""
    return f"{coco.file_names[index]} (image id {coco.ids.original(int(coco.image_ids[index]))})"


def _located(coco: CocoAnnotations, folder: Path, skip: bool) -> CocoAnnotations:
    """With the names of the files."""
    nameless = [i for i, name in enumerate(coco.file_names) if not name]
    if nameless:
        ids = [coco.ids.original(int(coco.image_ids[i])) for i in nameless]
        coco.findings.error("images without a file", f"image id {ids[0]} has no 'file_name' that is a text", ids)
    found = find_files(folder, [name or "" for name in coco.file_names])
    for kind, names in found.renamed.items():
        coco.findings.add(REPAIRED, "file names", "file", f"found {kind}", names)
    missing = np.array(found.is_missing, np.bool_) & np.array([bool(name) for name in coco.file_names], np.bool_)
    coco = replace(coco, file_names=list(found.names))
    shared = [name for name, number in Counter(found.names).items() if number > 1 and name]
    if shared:
        words = "of several images, each with boxes of its own: to the others its objects are background"
        coco.findings.add(NOTE, "images of one file", "file", words, shared)
    if missing.any():
        names = [image_name(coco, int(i)) for i in np.flatnonzero(missing)]
        if skip and not missing.all():
            coco.findings.add(LEFT_OUT, "missing files", "image", f"left out: no such file in {folder}", names)
            return coco.with_images(~missing)
        advice = "; restore them, or give skip_unreadable=True to leave such images out"
        coco.findings.say(
            ERROR,
            "missing files",
            f"{len(names)} of {len(missing)} image files are missing in {folder}, the first is {names[0]}"
            f"{found.hint or ('' if missing.all() else advice)}",
            names,
        )
    return coco.with_images(~missing & np.array([bool(name) for name in coco.file_names], np.bool_))


def _with_sizes(coco: CocoAnnotations, folder: Path, skip: bool, max_megapixels: float | None) -> CocoAnnotations:
    """With the sizes that the file does not say, those of upright pictures."""
    unknown = np.flatnonzero((coco.image_sizes_hw < 1).any(axis=1))
    if not len(unknown):
        return coco
    read = partial(read_header, max_megapixels=max_megapixels)
    headers = list(in_threads(read, [folder / str(coco.file_names[i]) for i in unknown]))
    sizes, readable = coco.image_sizes_hw.copy(), np.ones(len(coco.image_ids), np.bool_)
    for i, header in zip(unknown, headers, strict=True):
        sizes[i] = header.upright_size_hw
        readable[i] = header.problem is None
    names = [image_name(coco, int(i)) for i in unknown]
    coco.findings.add(REPAIRED, "sizes of images", "image", "without a size: that of the file is taken", names)
    problems = {int(i): header.problem for i, header in zip(unknown, headers, strict=True) if header.problem}
    coco = replace(coco, image_sizes_hw=sizes)
    note_unreadable(coco, folder, problems, skip)
    return coco.with_images(readable)


def note_unreadable(coco: CocoAnnotations, folder: Path, problems: dict[int, str], skip: bool) -> None:
    """Note pictures that cannot be read, by index, as left out or as faults; the annotations stay as they are."""
    if not problems:
        return
    names = [image_name(coco, i) for i in problems]
    first, problem = next(iter(problems.items()))
    if skip and len(problems) < len(coco.image_ids):
        said = f"left out, the first because it {problem}"
        coco.findings.add(LEFT_OUT, "unreadable pictures", "picture", said, names)
        return
    more = f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""
    advice = ["restore or replace the file"] if ";" not in problem else []
    if len(problems) < len(coco.image_ids):  # without all of them nothing is left
        advice.append("give skip_unreadable=True to leave such pictures out")
    ways = f"; {'or ' if ';' in problem else ''}{', or '.join(advice)}" if advice else ""
    coco.findings.put(ERROR, "unreadable pictures", f"{folder / image_name(coco, first)} {problem}{more}{ways}", names)


def _upright(coco: CocoAnnotations, folder: Path, max_megapixels: float | None) -> CocoAnnotations:
    """With upright sizes where boxes were drawn on upright pictures and the records have the stored or swapped sizes.

    The record's size decides in which frame boxes are (`sparse_rcnn.data.image`). Where a box leaves that frame and all
    boxes of the picture fit the turned one, it is worth asking the files; most data sets end here.
    """
    sizes, count = coco.image_sizes_hw, len(coco.image_ids)
    fits_recorded = _all_fit(coco, sizes, count)
    fits_turned = _all_fit(coco, sizes[:, ::-1], count)
    suspects = np.flatnonzero(~fits_recorded & fits_turned & (sizes[:, 0] != sizes[:, 1]))
    paths = [folder / str(name) for name in coco.file_names]

    def kind(i: int) -> int:
        return _reversed_by(paths[i], sizes[i], max_megapixels)

    if not len(suspects) or not any(kind(int(i)) for i in suspects):
        return coco
    kinds = np.array(list(in_threads(kind, range(count))), np.int64)
    turned = np.zeros(count, np.bool_)
    for number, noun, words in (
        (TURNED, "turned pictures", "turned by EXIF, recorded with the size before the turn, and annotated upright: "),
        (SWAPPED, "swapped sizes", "recorded with width and height swapped, and annotated as they are: "),
    ):
        mine = kinds == number
        upright_only, recorded_only = mine & ~fits_recorded & fits_turned, mine & fits_recorded & ~fits_turned
        if recorded_only.any():
            mine = upright_only
        elif not upright_only.any():
            continue
        if mine.any():
            names = [image_name(coco, int(i)) for i in np.flatnonzero(mine)]
            coco.findings.add(REPAIRED, noun, "picture", f"{words}the size of the upright picture is taken", names)
        turned |= mine
    return replace(coco, image_sizes_hw=np.where(turned[:, None], sizes[:, ::-1], sizes))


def _all_fit(coco: CocoAnnotations, sizes_hw: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """(N,) whether all boxes of an image fit a size."""
    good = fits(coco.boxes_xywh_abs, sizes_hw[coco.image_indices])
    return np.bincount(coco.image_indices[~good], minlength=count) == 0


def _reversed_by(path: Path, size_hw: NDArray[np.int64], max_megapixels: float | None) -> int:
    """Why the upright picture has a record's height as its width and its width as its height; 0 where it has not."""
    header = read_header(path, max_megapixels=max_megapixels)
    height, width = size_hw.tolist()
    if height == width or header.upright_size_hw != (width, height):
        return 0
    return TURNED if header.is_turned else SWAPPED
