"""Whatever can be read in a folder is read, what cannot is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from experiments.cli.picture_folders import find_pictures, readable_suffixes
from sparse_rcnn.errors import UserError
from tests.support.pictures import picture, to_pil


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def found(folder: Path) -> tuple[list[str], str | None]:
    pictures, left_aside = find_pictures(folder, folder / "out")
    return [path.relative_to(folder).as_posix() for path in pictures], left_aside


def test_every_format_that_pillow_reads_by_suffix_in_any_case(tmp_path: Path) -> None:
    names = ["a.jfif", "c.jp2", "d.JPE", "e.WebP", "f.tga", "g.dib", "h.qoi", "i.mpo", "k/l.TIFF"]
    assert found(make(tmp_path, *names, "out/a.png")) == (names, None)
    assert (".avif" in readable_suffixes()) == ("AVIF" in Image.OPEN)
    assert {".jpg", ".png", ".pgm", ".gif", ".bmp"} <= readable_suffixes()
    assert not {".pdf", ".mpg", ".h5"} & readable_suffixes()


def test_pictures_of_another_suffix_are_known_by_their_content(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    to_pil(picture()).save(tmp_path / "IMG_0001", "PNG")
    to_pil(picture()).save(tmp_path / "photo.jpg_large", "JPEG")
    to_pil(picture()).save(tmp_path / "camera.dng", "TIFF")  # what raw files begin with is a preview
    names, left_aside = found(tmp_path)
    assert names == ["IMG_0001", "photo.jpg_large"]
    assert left_aside is not None
    assert "2 files that Pillow does not know (1 .dng, 1 .txt; the first is camera.dng)" in left_aside.replace(
        "1 .txt, 1 .dng", "1 .dng, 1 .txt"
    )


def test_what_is_left_aside_is_counted_and_named(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "x.json", "y.json", "z.txt", "v.mpg", "w.h5", "u.svg", ".DS_Store", "d/.thumbs/a.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "nowhere", tmp_path / "dead.png")  # for its reader to name
    names, left_aside = found(tmp_path)
    assert names == ["a.jpg", "dead.png"]
    assert left_aside is not None
    assert left_aside.startswith(f"{tmp_path}: left aside 7 files that Pillow does not know (2 .json, 1 ")
    assert " and 2 more kinds; the first is pipe.png) and 2 hidden files or folders (the first is .DS_S" in left_aside


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no picture, only 2 files that Pillow does not know \(2 .txt; the "):
        found(make(tmp_path / "a", "x.txt", "y.txt"))
    with pytest.raises(UserError, match="holds no picture, only 1 hidden file or folder"):
        found(make(tmp_path / "b", ".x.png"))
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="c holds no picture: it is empty"):
        found(tmp_path / "c")
    with pytest.raises(UserError, match="d: there is no such image or folder"):
        found(tmp_path / "d")


def test_a_file_that_is_given_is_tried_whatever_its_name(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt", ".hidden")
    for name in ("notes.txt", ".hidden"):
        assert find_pictures(tmp_path / name, tmp_path / "out") == ([tmp_path / name], None)
