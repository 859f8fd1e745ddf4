"""Where a command's text and files go."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from analysis.formats import FORMATS
from analysis.runs import RunError


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format`` and ``--out``, as all commands that print tables have them."""
    parser.add_argument("--format", choices=FORMATS, default="text", help="default text")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of printing")


def emit(text: str, out: Path | None) -> None:
    """Print, or write a file that is never seen half-written.

    Raises:
        RunError: the file cannot be written.
    """
    if out is None:
        sys.stdout.write(text)
    else:
        write_file(out, text.encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole, with the folders above it.

    Raises:
        RunError: it cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with open(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)
