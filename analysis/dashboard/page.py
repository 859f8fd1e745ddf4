"""The page: one HTML file with its style, its scripts, the plotting library and the data in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from sparse_rcnn.errors import UserError

STATIC = Path(__file__).parent / "static"
SCRIPTS = (
    "dom.js", "lazy.js", "store.js", "table_columns.js", "table.js", "plots.js", "charts.js", "diff.js",
    "boxes.js", "panel.js", "viewer.js", "app.js",
)  # fmt: skip
_PLACE = re.compile(r"@@(\w+)@@")


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: ASCII alone, and nothing that HTML could take for its own."""
    content = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return content


def build_page(data: str, views: str, refresh_seconds: float | None = None) -> bytes:
    """The HTML file.

    Args:
        data: as `script_json` makes it, like `views`.
        refresh_seconds: how often a served page asks for newer data; None for a file, which may use no network at all.

    Raises:
        UserError: the plotting library is not installed.
    """
    plotly, scripts = _plotly(), _scripts()
    network = "'none'" if refresh_seconds is None else "'self'"
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(scripts)}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {network}; "
        "base-uri 'none'; form-action 'none'"
    )
    places = {
        "POLICY": policy,
        "STYLE": _static("style.css"),
        "REFRESH": script_json(refresh_seconds),
        "DATA": data,
        "VIEWS": views,
        "PLOTLY": plotly,
        "SCRIPTS": scripts,
    }
    return _PLACE.sub(lambda match: places[match[1]], _static("page.html")).encode()


@cache
def fixed_size() -> int:
    """Bytes of a page without runs."""
    return len(build_page("", ""))


@cache
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # here, so that --help needs no plotly
    except ImportError as error:
        raise UserError("the dashboard draws with plotly, which is not installed: pip install plotly") from error
    return get_plotlyjs()


def _scripts() -> str:
    """Our own scripts in one function, so that their names stay theirs."""
    return "(() => {\n'use strict';\n" + "\n".join(_static(name) for name in SCRIPTS) + "\n})();"


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
