"""Where a run came from: the code's revision, the versions of what it ran on, the machine and the command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparse_rcnn.places import checkout

REPOSITORY = checkout()
PACKAGES = (
    "sparse-rcnn-suite",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pillow",
    "pycocotools",
    "hotcoco",
    "safetensors",
    "hydra-core",
    "omegaconf",
)


def provenance() -> dict[str, Any]:
    """The keys git, versions, host and command of meta.json."""
    return {
        "git": git_state(),
        "versions": package_versions(),
        "host": socket.gethostname(),
        "command": [Path(sys.executable).name, *sys.argv],
    }


def git_state(repository: Path | None = REPOSITORY) -> dict[str, Any]:
    """`sha` of the code and whether it is `dirty` (changed or new files); both None without checkout, git or commit."""
    if repository is None:  # installed: a repository around site-packages is none of ours
        return {"sha": None, "dirty": None}
    sha = _git(repository, "rev-parse", "--verify", "HEAD")
    changes = _git(repository, "status", "--porcelain") if sha else None
    return {"sha": sha, "dirty": None if changes is None else bool(changes)}


def package_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a result may depend on; null for one that is absent."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def now() -> str:
    """The time in UTC, as the run directory's files write it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _git(repository: Path, *arguments: str) -> str | None:
    # Without optional locks: looking must not get in the way of a git command that runs beside it.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(repository.parent)}
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
