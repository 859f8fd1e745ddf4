"""Where a command's text and files go."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from sparse_rcnn.atomic import write_bytes_atomic

# Without the time of writing: the same view gives the same file.
UNDATED: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None},
}


def emit(text: str, out: Path | None) -> None:
    """Print, or write a UTF-8 file that is never seen half-written.

    Raises:
        UserError: the file cannot be written.
    """
    if out is None:
        sys.stdout.write(text)
    else:
        write_bytes_atomic(out, text.encode(errors="replace"))  # JSON can hold half a character


def write_figure(path: Path, figure: Any, dpi: float | str = "figure") -> None:
    """Write a matplotlib figure whole, in the format that its name ends in (one of ``UNDATED``).

    Raises:
        UserError: it cannot be written.
    """
    import matplotlib

    suffix, content = path.suffix.lower(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):  # else the ids in an SVG are random
        figure.savefig(content, format=suffix[1:], dpi=dpi, metadata=UNDATED[suffix])
    write_bytes_atomic(path, content.getvalue())
