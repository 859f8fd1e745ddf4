"""The embedded data set, made where a training needs it and it is not there yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.naming import naming
from experiments.config.build import Config, build
from sparse_rcnn import architecture


def ensure_data(config: Config, trusted_modules: Sequence[str] | None = None) -> None:
    """Make the data of a configuration that has a generator, unless it is there.

    Args:
        config: the user's own, or that of a run directory, which may come from anywhere.
        trusted_modules: of a run directory, the only ones whose classes are built.

    Raises:
        UserError: the folder holds something else, or cannot be written; the generator is of another module.
    """
    if config["data"]["generator"] is None:
        return
    root = Path(config["data"]["root"])
    if trusted_modules is None:
        generator = build(config, "data.generator")
    else:
        generator = architecture.build(config["data"]["generator"], trusted_modules, "data.generator")
    if not root.exists():
        print(f"making the data set {config['data']['name']} in {root}", file=sys.stderr)
    with naming("data.root"):
        generator.ensure(root)
