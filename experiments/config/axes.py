"""The axes of the ablations, and the check that a detector has those that a configuration sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.config.targets import ConfigError

# Each axis, by its key or group, and the node that choosing it fills.
NODES = {
    "num_stages": "num_stages",
    "num_proposals": "num_proposals",
    "dropout": "dropout",
    "head": "model.stage.interaction",
    "reuse": "model.stage.reuse",
    "init": "model.proposals.init",
    "positional_encoding": "model.positional_encoding",
    "roi_pooler": "model.roi_pooler",
}


def check_axes(config: Mapping[str, Any]) -> None:
    """Refuse a value of an axis that the detector of a resolved configuration does not have.

    Raises:
        ConfigError: names the axis, and those that the detector has.
    """
    if "detector" not in config:
        return
    name, own = config["detector"]["name"], config["detector"]["axes"]
    for axis in own:
        if axis in config and config[axis] is None:
            raise ConfigError(f"{axis}: detector={name} needs a value, got null")
    for axis, path in NODES.items():
        if axis not in own and _value(config, path) is not None:
            has = f"it has {', '.join(own)}" if own else "it has none of the ablations' axes"
            raise ConfigError(f"{axis}: detector={name} has no such axis ({has}); leave {axis} out")


def _value(config: Mapping[str, Any], path: str) -> Any:
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node
