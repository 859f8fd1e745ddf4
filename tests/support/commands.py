"""Commands run in this process."""

from __future__ import annotations

from analysis.__main__ import main


def run_command(name: str, arguments: list[str]) -> int:
    """``python -m analysis NAME ...`` in this process."""
    return main([name, *arguments])
