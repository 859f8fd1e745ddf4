"""Where the repository and the shared material are, and what a folder holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared(relative: str) -> Path:
    """A file or folder of the team's shared material, or a skip with the reason where it is absent."""
    base = Path(os.environ.get("SPARSE_RCNN_SHARED", ROOT.parent / "shared"))
    path = base / relative
    if not path.exists():
        pytest.skip(f"{path} is absent (set SPARSE_RCNN_SHARED to the folder that holds it)")
    return path


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())
