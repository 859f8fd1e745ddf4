"""Files found by names that other systems and tools have written."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from sparse_rcnn.data.image_names import find_files
from sparse_rcnn.errors import DataError


def folder(tmp_path: Path, *files: str) -> Path:
    for file in files:
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("recorded", "file", "kind"),
    [
        ("train\\sub\\a.jpg", "train/sub/a.jpg", "with slashes"),
        ("C:\\Users\\me\\a.jpg", "a.jpg", "with slashes"),
        ("images/a.jpg", "a.jpg", "without the folder 'images'"),
        ("/home/me/images/sub/a.jpg", "sub/a.jpg", "without the folder 'home/me/images'"),
        ("./a.jpg", "a.jpg", None),
        ("../a.jpg", "a.jpg", "below the folder"),
        ("/a.jpg", "a.jpg", "below the folder"),
        ("a.jpg ", "a.jpg", "without the spaces around it"),
        ("https://example.org/data/a.jpg", "a.jpg", "without the address"),
        ("https://example.org/data/my%20a.jpg?token=b%2Fc", "data/my a.jpg", "without the address"),
        ("s3://bucket/photos/a.jpg", "photos/a.jpg", "without the address"),
        ("/data/local-files/?d=photos/a.jpg", "photos/a.jpg", "without the address"),
        ("/data/upload/1/3fa8-a.jpg", "3fa8-a.jpg", "without the folder 'data/upload/1'"),
        ("my%20a.jpg", "my a.jpg", "with percent signs decoded"),
        ("a.JPG", "a.jpg", "in another case"),
        (unicodedata.normalize("NFD", "Zürich/é.jpg"), unicodedata.normalize("NFC", "Zürich/é.jpg"), None),
        (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg"), "in another Unicode form"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg"), "in another Unicode form"),
        ("a?b.jpg", "a?b.jpg", None),
        ("100%.jpg", "100%.jpg", None),
        ("a\\b.jpg", "a\\b.jpg", None),
    ],
)
def test_one_file_in_another_spelling(tmp_path: Path, recorded: str, file: str, kind: str | None) -> None:
    found = find_files(folder(tmp_path, file, "other.jpg"), [recorded, "other.jpg"])
    assert (tmp_path / "images" / found.names[0]).is_file()
    assert found.is_missing == [False, False]
    if kind is not None:
        assert found.renamed == {kind: [recorded]}


def test_two_names_that_lead_to_one_file_are_missing(tmp_path: Path) -> None:
    found = find_files(folder(tmp_path, "1.jpg"), ["left/1.jpg", "right/1.jpg"])
    assert found.is_missing == [True, True]
    assert found.hint == "; several records lead to 1.jpg"
    found = find_files(folder(tmp_path, "A.jpg", "a.jpg", "b.jpg"), ["a.JPG", "b.jpg"])
    assert found.is_missing == [True, False]


def test_records_of_one_name_share_its_file(tmp_path: Path) -> None:
    assert find_files(folder(tmp_path, "1.jpg"), ["x/1.jpg", "x/1.jpg"]).is_missing == [False, False]


@pytest.mark.parametrize(
    ("files", "name", "hint"),
    [
        (["images/a.jpg"], "a.jpg", "; there is images/a.jpg: give the folder {images}/images"),
        (["val/a.jpg", "train/b.jpg"], "b.jpg", "; there is train/b.jpg: give the folder {images}/train"),
        (["x/train/b.jpg"], "train/b.jpg", "; there is x/train/b.jpg: give the folder {images}/x"),
        (["../a.jpg", "b.jpg"], "a.jpg", "; it is in {parent}: give that folder"),
        (["../val/a.jpg", "b.jpg"], "a.jpg", "; it is in {parent}/val: give that folder"),
        (["a.png"], "a.jpg", "; there is a.png: correct the file names of the records"),
        (["a.png"], "a", "; there is a.png: correct the file names of the records"),
        (["b.png"], "a.jpg", ""),
    ],
)
def test_a_hint_where_the_file_would_be(tmp_path: Path, files: list[str], name: str, hint: str) -> None:
    images = folder(tmp_path, "c.png", *files)
    found = find_files(images, [name])
    assert found.is_missing == [True]
    assert found.hint == hint.format(images=images, parent=tmp_path)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["train/1.jpg", "train/3.jpg", "val/1.jpg", "val/2.jpg"], "there is val/1.jpg: give the folder {images}/val"),
        (["train/1.jpg", "val/1.jpg"], "give the folder of the pictures that belong to the records"),
    ],
)
def test_of_several_folders_the_one_with_most_of_the_files_is_named(
    tmp_path: Path, files: list[str], hint: str
) -> None:
    images = folder(tmp_path, *files)
    assert find_files(images, ["1.jpg", "2.jpg"]).hint.endswith(hint.format(images=images))


def test_where_only_some_files_are_missing_the_folder_is_the_right_one(tmp_path: Path) -> None:
    images = folder(tmp_path, "1.jpg", "../val/2.jpg")
    assert find_files(images, ["1.jpg", "2.jpg"]).hint == ""
    folder(tmp_path, "sub/2.jpg")
    assert find_files(images, ["1.jpg", "2.jpg"]).hint == "; there is sub/2.jpg"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        find_files(tmp_path / "nowhere", ["a.jpg"])
    (tmp_path / "train.json").touch()
    with pytest.raises(DataError, match=r"image folder .*train.json is a file"):
        find_files(tmp_path / "train.json", ["a.jpg"])
