"""The hand-written paragraphs of a report, by section."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_rcnn.errors import UserError

_WRITTEN_FOR = re.compile(r"<!-- written for numbers ([0-9a-f]{12}) -->")


@dataclass(frozen=True)
class Comments:
    """The hand-written paragraphs by section, and the numbers that they were written for, where these are given."""

    sections: Mapping[str, str]
    written_for: str | None


def read_comments(path: Path, known: Sequence[str]) -> Comments:
    """The hand-written paragraphs: each section's text below a heading ``## table7``; none without the file.

    A line ``<!-- written for numbers 0123456789ab -->``, as the page gives it, lets a later page note that they have
    changed.

    Raises:
        UserError: the file cannot be read, or has a section twice or one that is not ``known``.
    """
    if not path.exists():
        return Comments({}, None)
    try:
        head, *parts = re.split(r"^## +(.+?) *$", path.read_text(), flags=re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    names = parts[::2]
    for name in names:
        if name not in known:
            raise UserError(f"{path} has a section '{name}'; the page has {', '.join(known)}")
        if names.count(name) > 1:
            raise UserError(f"{path} has the section '{name}' twice: join them")
    sections = {name: text.strip() for name, text in zip(names, parts[1::2], strict=True)}
    written_for = _WRITTEN_FOR.search(head)
    return Comments(sections, written_for[1] if written_for else None)
