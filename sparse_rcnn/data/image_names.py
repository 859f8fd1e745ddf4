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

NAME_KEYS = ("file_name", "coco_url", "path", "url", "flickr_url")  # of image records, the likeliest first
MAX_LISTED_FILES = 2_000_000  # of the folders below the images that are gone through for a hint
MAX_PLACES, MAX_COMPARED = 100, 1000  # folders that may be meant, and missing names that tell which


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
    for key in NAME_KEYS:
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
        raise DataError(f"image folder {folder} {'is a file' if folder.exists() else 'does not exist'}")
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
        absent = [name for name, gone in zip(file_names, missing, strict=True) if gone]
        hint = f"; several records lead to {shared[0]}" if shared else listing.hint(absent, all(missing))
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

    def hint(self, names: Sequence[str], is_all: bool) -> str:
        """Where missing files may be: in a folder below this one or beside it, or with another suffix.

        Of several folders that have a file of the first name, the one with most of the others is meant. Where only some
        files are missing, this is the right folder, and one beside it may have another picture of the same name.
        """
        name = names[0]
        last = _parts_of_url(name)[-1]
        stem = _folded(os.path.splitext(last)[0])
        other_suffix: str | None = None
        found: list[str] = []
        for count, (parent, file) in enumerate(self._below()):
            if file == last and len(found) < MAX_PLACES:
                found.append(parent)
            if other_suffix is None and _folded(os.path.splitext(file)[0]) == stem:
                other_suffix = os.path.relpath(os.path.join(parent, file), self.folder)
            if count > MAX_LISTED_FILES:
                break
        if found and not is_all:
            return f"; there is {os.path.relpath(os.path.join(found[0], last), self.folder)}"
        if found:
            return self._hint_below(found, name, {_parts_of_url(each)[-1] for each in names[:MAX_COMPARED]})
        here = self.folder.absolute()
        beside = [here.parent / other for other in sorted(list_folder(str(here.parent)))[:MAX_PLACES]]
        near = [folder for folder in (*list(here.parents)[:2], *beside) if is_all and (folder / name).is_file()]
        if near:
            best = max(near, key=lambda folder: sum((folder / each).is_file() for each in names[:MAX_PLACES]))
            return f"; it is in {best}: give that folder"
        return f"; there is {other_suffix}: correct the file names of the records" if other_suffix else ""

    def _hint_below(self, parents: Sequence[str], name: str, wanted: set[str]) -> str:
        counts = [len(wanted & self.names(parent)) for parent in parents]
        best = [parent for parent, number in zip(parents, counts, strict=True) if number == max(counts)]
        last = _parts_of_url(name)[-1]
        inner = [os.path.relpath(os.path.join(parent, last), self.folder) for parent in best]
        if len(best) > 1:
            return f"; there are {' and '.join(inner[:2])}: give the folder of the pictures that belong to the records"
        below = inner[0][: -len(name)].rstrip("/") if inner[0].endswith("/" + name) else os.path.dirname(inner[0])
        return f"; there is {inner[0]}: give the folder {self.folder / below}"

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
    whole = "below the folder" if name == name.strip() else "without the spaces around it"
    for i in range(len(parts)):
        candidate = os.path.join(*parts[i:])
        if candidate != name:
            yield candidate, kind or (f"without the folder {os.path.join(*parts[:i])!r}" if i else whole)
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
