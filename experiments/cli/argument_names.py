"""Arguments that the library's messages advise, under the names that a user types."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

KEYS = {
    "drop_degenerate_boxes": "data.drop_degenerate_boxes",
    "excluded_categories": "data.excluded_categories",
    "skip_unreadable": "data.skip_unreadable",
    "pixel_range": "input.pixel_range",
    "max_megapixels": "input.max_megapixels",
}
_VALUES = {"True": "true", "False": "false", "None": "null"}


def as_typed(text: str, names: Mapping[str, str] = KEYS) -> str:
    """A message with configuration keys in place of arguments: ``skip_unreadable=True`` as it would be typed.

    Words within paths stay as they are.
    """
    pattern = rf"(?<![\w./-])({'|'.join(names)})(?![\w/-]|\.\w)(?:=(True|False|None)\b)?"

    def replaced(match: re.Match[str]) -> str:
        value = match[2] if not names[match[1]].startswith("--") else None  # an option needs none
        return names[match[1]] + (f"={_VALUES[value]}" if value else "")

    return re.sub(pattern, replaced, text) if names else text


@contextmanager
def one_line_warnings(names: Mapping[str, str] = KEYS) -> Iterator[None]:
    """Within, a word of the library on data is one line on stderr, with the names that a user types."""
    before = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any, **other: Any) -> None:
        if category.__module__.startswith("sparse_rcnn."):
            print(f"warning: {as_typed(str(message), names)}", file=sys.stderr, flush=True)
        else:
            before(message, category, *rest, **other)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
