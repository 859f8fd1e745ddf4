"""The embedded data set, made where a training needs it and it is not there yet."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.build import Config, build
from experiments.naming import naming


def ensure_data(config: Config) -> None:
    """Make the data of a configuration that has a generator, unless it is there.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    if config["data"]["generator"] is None:
        return
    root = Path(config["data"]["root"])
    generator = build(config, "data.generator")
    if not root.exists():
        print(f"making the data set {config['data']['name']} in {root}", file=sys.stderr)
    with naming("data.root"):
        generator.ensure(root)
