"""A choice of a group that no file makes, in one line: which there are, and where one of its name lies."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import MissingConfigException

# Groups whose options a user knows by name alone, and may give to another group.
KNOWN_BY_NAME = ("experiment", "detector", "sweep")


def describe_missing_option(error: MissingConfigException) -> str | None:
    """The group, the option that it lacks, and those that it has; None where the file is not one of a group.

    Args:
        error: of Hydra, whose message ends with the folders that it looked in.
    """
    if not error.missing_cfg_file or "/" not in error.missing_cfg_file:
        return None
    folders = [Path(found) for found in re.findall(r"path=file://(.+)$", str(error), re.MULTILINE)]
    listed = re.search(r"^Available options in '(.*)':$", str(error), re.MULTILINE)
    group, option = _split(error.missing_cfg_file, folders)
    options = _options(group, folders)
    if listed is not None and (listed[1] == group or not options):
        group = listed[1]
        option = error.missing_cfg_file.removeprefix(f"{group}/")
        options = sorted({*options, *(error.options or ())})
    if not options:
        return None
    return f"{group}: there is no option {option!r}{_hint(group, option, options, folders)}"


def _split(missing: str, folders: Sequence[Path]) -> tuple[str, str]:
    """The group and the option of a missing file: of its parents, the nearest that is a folder."""
    group, _, option = missing.rpartition("/")
    while "/" in group and not any((folder / group).is_dir() for folder in folders):
        group, _, last = group.rpartition("/")
        option = f"{last}/{option}"
    return group, option


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    """The options of a group, those in folders below it as they are chosen: ``published/detr`` of ``crop``."""
    roots = [folder / group for folder in folders]
    return sorted({str(file.relative_to(root).with_suffix("")) for root in roots for file in root.rglob("*.yaml")})


def _hint(group: str, option: str, options: Sequence[str], folders: Sequence[Path]) -> str:
    elsewhere = [
        f"{name}={option}"
        for name in KNOWN_BY_NAME
        if name != group and any((folder / name / f"{option}.yaml").is_file() for folder in folders)
    ]
    close = [repr(name) for name in difflib.get_close_matches(option, options, n=1)]
    meant = f"; did you mean {(elsewhere or close)[0]}?" if elsewhere or close else ""
    return f"{meant} (available: {', '.join(options)})"
