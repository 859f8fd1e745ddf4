"""Names of modules and objects that mean something else for the time of a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let ``owner.name`` be ``value`` within the block; a submodule stays registered."""
    own = vars(owner)
    before = (own[name],) if name in own else ()
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if before:
            object.__setattr__(owner, name, before[0])
        else:
            object.__delattr__(owner, name)
