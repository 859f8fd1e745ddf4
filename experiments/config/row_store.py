"""Rows that were composed before, in the user's cache folder: composing them all takes seconds at the start of a run.

A file holds the rows of one recipe from configuration folders of one content, composed by this code under these
versions of Hydra and OmegaConf. Where anything of that changes, another file is meant; a file that cannot be read or
written costs the time that it would have saved.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import UserError

NUM_KEPT = 20  # files, the newest
# Resolvers whose values are not in the folders. Those of the hydra node, which rows do not hold, do not count.
_FROM_OUTSIDE = ("${oc.env", "${now:", "${hydra:", "${env:")


@dataclass
class RowStore:
    """The rows of one file, by name: the JSON form of each, None for one that does not compose.

    Attributes:
        path: of the file; None where rows depend on more than the folders, so that none are kept.
    """

    path: Path | None
    rows: dict[str, Any] = field(default_factory=dict)
    is_changed: bool = False

    def get(self, name: str, compose: Callable[[], Any]) -> Any:
        """The JSON form of a row, composed where it is not there."""
        if name not in self.rows:
            self.rows[name] = compose()
            self.is_changed = True
        return self.rows[name]

    def save(self) -> None:
        """Write the file where a row is new, and drop the oldest files of the folder."""
        if self.path is None or not self.is_changed:
            return
        with suppress(OSError, UserError, ValueError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(self.path, json.dumps(self.rows).encode())
            files = sorted(self.path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in files[:-NUM_KEPT]:
                file.unlink(missing_ok=True)
        self.is_changed = False


def cache_folder() -> Path:
    """The folder of this program in the user's cache (``XDG_CACHE_HOME``, or ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse_rcnn" / "rows"


@functools.cache
def open_store(folders: tuple[str, ...], *key: str) -> RowStore:
    """The store of rows composed from folders of configuration, those of this process included.

    Args:
        folders: of the search path, in its order; other entries name packages, whose versions count.
        key: all that the rows are composed with besides.
    """
    content = _content(folders)
    if content is None:
        return RowStore(None)
    text = json.dumps([content, _code(), version("hydra-core"), version("omegaconf"), str(Path.home()), folders, key])
    path = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    rows = {}
    with suppress(OSError, ValueError):
        rows = json.loads(path.read_bytes())
    return RowStore(path, rows if isinstance(rows, dict) else {})


def _content(folders: Sequence[str]) -> str | None:
    """A digest of all YAML files of some folders; None where rows or values of them come from elsewhere."""
    digest = hashlib.sha256()
    if not any(Path(folder).is_absolute() and Path(folder, "experiment").is_dir() for folder in folders):
        return None
    try:
        for folder in map(Path, folders):
            for file in sorted(folder.rglob("*.yaml")) if folder.is_absolute() else []:
                text = file.read_bytes()
                if any(resolver.encode() in _without_hydra(text) for resolver in _FROM_OUTSIDE):
                    return None
                digest.update(f"{file}\n{len(text)}\n".encode() + text)
    except OSError:
        return None
    return digest.hexdigest()


def _without_hydra(text: bytes) -> bytes:
    """A file without its top-level ``hydra`` node."""
    lines, kept = text.splitlines(), []
    inside = False
    for line in lines:
        if line[:1].strip() and not line.startswith(b"#"):
            inside = line.startswith(b"hydra:")
        if not inside:
            kept.append(line)
    return b"\n".join(kept)


def _code() -> str:
    """A digest of the code that composes and resolves."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
