"""Pickles of objects whose classes exist nowhere here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def pickled_as(module_name: str, class_name: str, dump: Callable[[Any], bytes]) -> bytes:
    """What ``dump`` makes of ``{"model": object of that class}``."""
    made = type(class_name, (), {"__module__": module_name})
    with pytest.MonkeyPatch.context() as patch:
        parts = module_name.split(".")
        for i in range(len(parts)):
            name = ".".join(parts[: i + 1])
            module = ModuleType(name)
            setattr(module, class_name, made)
            patch.setitem(sys.modules, name, module)
        return dump({"model": made()})
