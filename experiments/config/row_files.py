"""The files of ``conf/experiment`` as they stand, without composing them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from yaml import YAMLError, safe_load


@functools.cache
def detector_of_row(name: str, folders: tuple[str, ...], default: str | None) -> str | None:
    """The detector that a row's file chooses; None where the file alone does not say.

    Composing takes a sixth of a second a row, which would be most of the start of a run.

    Args:
        folders: of the configuration.
        default: the detector of rows that choose none.
    """
    files = [path for folder in folders if (path := Path(folder) / "experiment" / f"{name}.yaml").is_file()]
    try:
        entries = (safe_load(files[0].read_text()) or {}).get("defaults", []) if len(files) == 1 else [None]
    except (OSError, YAMLError, AttributeError):
        return None
    chosen = default
    for entry in entries:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or not all(str(key).startswith("override /") for key in entry):
            return None  # another file, which may choose one
        chosen = entry.get("override /detector", chosen)
    return chosen if isinstance(chosen, str) and re.fullmatch(r"[\w-]+", chosen) else None
