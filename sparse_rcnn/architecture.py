"""A detector from a plain description, so that a weights file can carry its own architecture.

The description is the resolved ``model`` node of the configuration: nested dictionaries with ``_target_`` and
constructor arguments. The suite builds the same nodes with Hydra; the library needs nothing but this.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from sparse_rcnn.errors import CheckpointError

TRUSTED_MODULES = ("sparse_rcnn",)


class UntrustedClassError(CheckpointError):
    """A description names a class of a module that is not trusted; the message names it."""


def build(description: Any, trusted_modules: Sequence[str] = TRUSTED_MODULES, path: str = "model") -> Any:
    """Build what a description says, depth first.

    A weights file comes from anywhere, so only classes of ``trusted_modules`` are ever called.

    Raises:
        CheckpointError: an unknown class, a class from elsewhere, or arguments that do not fit; names the node.
    """
    if isinstance(description, dict):
        arguments = {k: build(v, trusted_modules, f"{path}.{k}") for k, v in description.items() if k != "_target_"}
        if "_target_" not in description:
            return arguments
        target = description["_target_"]
        try:
            return _locate(target, trusted_modules, path)(**arguments)
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {target} cannot be built: {error}") from error
    if isinstance(description, list):
        return [build(v, trusted_modules, f"{path}[{i}]") for i, v in enumerate(description)]
    return description


def _locate(target: str, trusted_modules: Sequence[str], path: str) -> type:
    module_name, _, name = target.rpartition(".")
    top_level = module_name.split(".")[0]
    if top_level not in trusted_modules:
        raise UntrustedClassError(
            f"{path}: class {target} is not part of {', '.join(trusted_modules)}; if you trust it, name its "
            f"top-level module {top_level!r} in trusted_modules"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{path}: class {target} does not exist in this version: {error}") from error
    # A trusted module's namespace also holds what it imports from elsewhere.
    if not isinstance(found, type) or found.__module__.split(".")[0] not in trusted_modules:
        raise CheckpointError(f"{path}: {target} is not a class of {', '.join(trusted_modules)}")
    return found
