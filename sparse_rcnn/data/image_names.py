"""From the file names of annotation records to files: another spelling is found where it is unambiguous."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sparse_rcnn.errors import DataError

MAX_LISTED_FILES = 2_000_000  # of the folders below the images that are gone through for a hint


@dataclass(frozen=True)
class FoundFiles:
    """Where the files of N images are.

    Attributes:
        names: N paths relative to the folder (or absolute), the recorded name where there is no such file.
        is_missing: N, whether there is none.
        renamed: how many were found under another spelling, by kind (``without the folder 'images'``): their names.
        hint: where the first missing file may be; empty where nobody knows.
    """

    names: list[str]
    is_missing: list[bool]
    renamed: Mapping[str, list[str]]
    hint: str


def name_of_record(record: Mapping[str, Any]) -> str | None:
    """The file name of an image record, or the URL or path that it has in its place; None for none."""
    for key in ("file_name", "coco_url", "path", "url", "flickr_url"):
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return None


def find_files(folder: Path, file_names: Sequence[str]) -> FoundFiles:
    """Find files by their recorded names, listing each folder once: asking per file is slow on a network.

    A name that is not there as it is counts as URL, Windows path, path with folders that do not exist here, or as
    spelled in another Unicode form or case. Two records that lead to one file in this way stay missing.

    Raises:
        DataError: the folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist")
    listing = _Listing(folder)
    names, missing = list(file_names), [not listing.holds(name) for name in file_names]
    if not any(missing):
        return FoundFiles(names, missing, {}, "")
    taken = defaultdict(list)
    for i, name in enumerate(file_names):
        if not missing[i]:
            taken[name].append(i)
    found: dict[int, tuple[str, str]] = {}
    for i, name in enumerate(file_names):
        if missing[i] and (other := listing.spelled_otherwise(name)) is not None:
            found[i] = other
            taken[other[0]].append(i)
    renamed: defaultdict[str, list[str]] = defaultdict(list)
    for i, (name, kind) in found.items():
        # One picture may have several records; two names that meet in one file are a guess.
        if len({file_names[j] for j in taken[name]}) == 1:
            names[i], missing[i] = name, False
            renamed[kind].append(file_names[i])
    hint = ""
    if any(missing):
        first = missing.index(True)
        shared = found.get(first)
        hint = f"; several records lead to {shared[0]}" if shared else listing.hint(file_names[first])
    return FoundFiles(names, missing, dict(renamed), hint)


class _Listing:
    """The files of a folder, each of its folders listed when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folders: dict[str, set[str]] = {}
        self._forms: dict[str, dict[str, list[str]]] = {}

    def names(self, parent: str) -> set[str]:
        if parent not in self._folders:
            self._folders[parent] = list_folder(parent)
        return self._folders[parent]

    def holds(self, name: str) -> bool:
        parent, last = os.path.split(os.path.join(self.folder, name))
        return last in self.names(parent)

    def spelled_otherwise(self, name: str) -> tuple[str, str] | None:
        """The file that is meant, and the kind of spelling; None where there is none or several."""
        for candidate, kind in _candidates(name):
            if self.holds(candidate):
                return candidate, kind
        for candidate, _ in [(name, ""), *_candidates(name)]:
            for unicode_form in ("NFC", "NFD"):
                other = unicodedata.normalize(unicode_form, candidate)
                if other != candidate and self.holds(other):
                    return other, "in another Unicode form"
            parent, last = os.path.split(candidate)
            for form, kind in ((_nfc, "in another Unicode form"), (_folded, "in another case")):
                same = self._by_form(os.path.join(self.folder, parent), form.__name__).get(form(last), [])
                if len(same) == 1:
                    return os.path.join(parent, same[0]), kind
        return None

    def _by_form(self, parent: str, form: str) -> dict[str, list[str]]:
        key = f"{form} {parent}"
        if key not in self._forms:
            table: defaultdict[str, list[str]] = defaultdict(list)
            for name in self.names(parent):
                table[(_nfc if form == "_nfc" else _folded)(name)].append(name)
            self._forms[key] = dict(table)
        return self._forms[key]

    def hint(self, name: str) -> str:
        """Where a missing file may be: in a folder below this one or beside it, or with another suffix."""
        last = _parts_of_url(name)[-1]
        stem = _folded(os.path.splitext(last)[0])
        other_suffix = None
        for count, (parent, file) in enumerate(self._below()):
            if file == last:
                inner = os.path.relpath(os.path.join(parent, file), self.folder)
                below = inner[: -len(name)].rstrip("/") if inner.endswith("/" + name) else os.path.dirname(inner)
                return f"; there is {inner}: give the folder {self.folder / below}"
            if other_suffix is None and _folded(os.path.splitext(file)[0]) == stem:
                other_suffix = os.path.relpath(os.path.join(parent, file), self.folder)
            if count > MAX_LISTED_FILES:
                break
        for above in list(self.folder.absolute().parents)[:2]:
            if (above / name).is_file():
                return f"; it is in {above}: give that folder"
        return f"; there is {other_suffix}" if other_suffix else ""

    def _below(self) -> Iterator[tuple[str, str]]:
        for parent, _, files in os.walk(self.folder):
            for file in files:
                yield parent, file


def list_folder(folder: str) -> set[str]:
    """The names in a folder, none where there is no such folder."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"image folder {folder} cannot be read: {reason}") from error


def _candidates(name: str) -> Iterator[tuple[str, str]]:
    """Other spellings of a name, the likeliest first: with the folders that it has, then with fewer."""
    parts = _parts_of_url(name)
    kind = "without the address" if "://" in name or "?" in name else "with slashes" if "\\" in name else ""
    for i in range(len(parts)):
        candidate = os.path.join(*parts[i:])
        if candidate != name:
            yield candidate, kind or f"without the folder {os.path.join(*parts[:i])!r}" if i else kind or "with slashes"
        if "%" in candidate and not kind:
            yield unquote(candidate), "with percent signs decoded"


def _parts_of_url(name: str) -> list[str]:
    """Folders and file of a path, a Windows path or a URL; at least one part."""
    text = name.strip()
    if "://" in text or text.startswith(("/data/", "data:")) or "?" in text:
        url = urlsplit(text)
        query = parse_qs(url.query)
        local = query.get("d") or query.get("path") or query.get("file")
        inner = local[0] if local and not os.path.splitext(url.path)[1] else url.path or text
        text = unquote(inner)
    parts = text.replace("\\", "/").split("/")
    return [part for part in parts if part not in ("", ".", "..") and not part.endswith(":")] or [name]


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
