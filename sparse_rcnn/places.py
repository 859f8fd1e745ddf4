"""Where files lie: the suite's own, in a checkout or installed without one, and those that a user names."""

from __future__ import annotations

import os
from pathlib import Path

_PARENT = Path(__file__).resolve().parent.parent
INSTALLED_CONF = "sparse_rcnn_conf"  # what the wheel calls conf/: pyproject.toml and setup.py map it


def checkout(parent: Path = _PARENT) -> Path | None:
    """The folder of the checkout that this code is run from, None where it is installed without one.

    Args:
        parent: the folder that holds the packages.
    """
    # Both: what else is installed may have brought a folder of that name.
    is_checkout = (parent / "pyproject.toml").is_file() and (parent / "conf" / "recipe").is_dir()
    return parent if is_checkout else None


def conf_dir(parent: Path = _PARENT) -> Path:
    """The folder of the configuration: the checkout's ``conf/``, else the one that is installed beside the packages."""
    root = checkout(parent)
    return parent / INSTALLED_CONF if root is None else root / "conf"


def user_path(text: str) -> Path:
    """A path as typed, with the home folder for a leading ``~``, which shells leave where it follows a ``=``."""
    return Path(os.path.expanduser(text))
