"""Files that are broken, cut off or of another size are found without decoding good ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparse_rcnn.data.image_headers import ends_whole, in_threads, read_ends, read_header
from sparse_rcnn.data.picture_check import decode_all, find_problems, in_both
from sparse_rcnn.pixel_range import AUTO
from tests.support.coco_files import dataset, small_set

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]


def encoded(format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_file_cut_off_is_found_in_every_format(tmp_path, format, whole):
    content, path = encoded(format), tmp_path / "picture"
    path.write_bytes(content)
    header = read_header(path, whole)
    assert header.problem is None
    assert header.stored_size_hw == (40, 60)
    for kept in (len(content) // 2, len(content) - 40):
        path.write_bytes(content[:kept])
        problem = read_header(path, whole).problem
        assert problem is not None
        assert "cannot be read as an image" in problem


def test_the_end_of_a_thumbnail_is_not_that_of_the_picture(tmp_path):
    path, buffer = tmp_path / "photo.jpg", io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    # A directory of no entries, and after it what a camera puts there.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + encoded("JPEG")
    Image.fromarray(pixels).save(buffer, format="JPEG", exif=exif)
    content = buffer.getvalue()
    path.write_bytes(content)
    assert ends_whole(read_ends(path), "JPEG")
    path.write_bytes(content[: content.index(b"\xff\xd9") + 1000])
    assert "truncated" in str(read_header(path).problem)


def test_threads_are_never_far_ahead_of_their_reader():
    started = []
    results = in_threads(lambda i: started.append(i) or i, range(100_000))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert len(started) < 1000
    assert list(in_threads(str, range(1000))) == list(map(str, range(1000)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_whole_file_of_a_common_format_need_not_be_decoded(tmp_path, format):
    path = tmp_path / "picture"
    path.write_bytes(encoded(format))
    assert ends_whole(read_ends(path), format)
    path.write_bytes(encoded(format) + b"maker's notes")
    assert ends_whole(read_ends(path), format)


def test_values_of_unknown_range_and_too_many_pixels_are_found_without_training(tmp_path):
    data = dataset(tmp_path, small_set())
    folder = tmp_path / "images"
    Image.fromarray(np.full((40, 60), 900, np.uint16)).save(folder / "9.png")
    for check in (find_problems, lambda *given: decode_all(*given)[0]):
        problems = check(data.coco, folder, AUTO, 1)
        assert problems.keys() == {1}
        assert "give pixel_range" in problems[1]
        assert check(data.coco, folder, "uint12", 1) == {}
        assert "more than max_megapixels" in check(data.coco, folder, "uint12", 0.001)[0]


@pytest.mark.parametrize("late", [False, True])
def test_the_orientation_of_a_png_may_come_before_or_after_the_pixels(tmp_path, late):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    content = path.read_bytes()
    if late:  # move the chunk: length, name, content and checksum
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        last = content.index(b"IEND") - 4
        chunk = content[start:end]
        parts = (content[:start], content[end:last]) if end <= last else (content[:last], b"")
        path.write_bytes(parts[0] + parts[1] + chunk + content[last:])
    assert read_header(path).upright_size_hw == (60, 40)


def corrupt(path: Any) -> None:
    """Break the beginning of the pixels of a PNG; the ends of the file stay as they are."""
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 4
    content[start : start + 20] = bytes(20)
    path.write_bytes(bytes(content))


def test_the_cheap_check_and_the_thorough_one(tmp_path):
    data = dataset(tmp_path, small_set())
    folder = tmp_path / "images"
    counts: list[int] = []
    assert find_problems(data.coco, folder, AUTO, 1, counts.append) == {}
    assert sum(counts) == 3
    corrupt(folder / "5.png")
    Image.new("RGB", (40, 60)).save(folder / "9.png")
    (folder / "70.png").unlink()
    cheap = find_problems(data.coco, folder, AUTO, 1)
    assert cheap == {
        1: "is 60 x 40 pixels (height x width), its record says 40 x 60; the two are swapped",
        2: "does not exist",
    }
    problems, _ = decode_all(data.coco, folder, AUTO, 1)
    assert problems.keys() == {0, 1, 2}
    assert "cannot be read as an image" in problems[0]
    assert {i: problems[i] for i in (1, 2)} == cheap


def test_equal_pictures_are_found_by_their_content(tmp_path):
    data = dataset(tmp_path, small_set())
    (tmp_path / "images" / "9.png").write_bytes((tmp_path / "images" / "70.png").read_bytes())
    _, files = decode_all(data.coco, tmp_path / "images", AUTO, 1)
    assert sorted(files.values()) == [[0], [1, 2]]
    assert in_both(files, {next(digest for digest, who in files.items() if who == [0]): [5]}) == [(0, 5)]
