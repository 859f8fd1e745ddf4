"""Interleaved timing: a slow moment of the machine falls on all sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from tqdm import tqdm

TOTAL = "total"
Side = Callable[[], Mapping[str, float]]
"""One timed pass: seconds by part, with `TOTAL`."""


def timed(run: Callable[[], Any]) -> Side:
    """A side without parts."""

    def side() -> dict[str, float]:
        started = perf_counter()
        run()
        return {TOTAL: perf_counter() - started}

    return side


@contextmanager
def progress(num_turns: int) -> Iterator[Callable[[], Any]]:
    """A bar on the terminal, and the function that moves it on."""
    with tqdm(total=num_turns, desc="measuring", leave=False, disable=None) as bar:
        yield bar.update


def interleaved(sides: Mapping[str, Side], num_repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of ``num_repeats`` passes by side and part, after one pass of each side that does not count."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    with progress(len(sides) * (num_repeats + 1)) as advance:
        for repeat in range(num_repeats + 1):
            for name, side in sides.items():
                parts = side()
                if repeat:
                    for part, value in parts.items():
                        seconds[name].setdefault(part, []).append(value)
                advance()
    return seconds
