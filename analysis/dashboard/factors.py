"""The configurations of many runs: stored compactly, and the keys in which they differ."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sparse_rcnn.rundir.changes import flatten
from sparse_rcnn.rundir.identity import is_excluded

ABSENT = "absent"  # a value no JSON text equals
TARGET = "._target_"
DETECTOR = f"model{TARGET}"
DETECTOR_NODES = ("model.", "criterion.")  # what a detector is made of and trained against


def flat_config(config: Any) -> dict[str, Any]:
    """Dotted keys to plain values as JSON has them; a list of plain values is one value."""
    return {key: _plain(value) for key, value in flatten(config, whole_lists=True).items()}


def compact(configs: Sequence[Mapping[str, Any] | None]) -> tuple[dict[str, Any], list[dict[str, Any] | None]]:
    """The most common value of each key, and for each flat config what is different in it.

    Returns:
        base: key to value, of the keys that most configs have.
        differences: for each config `set` (key to value) and `absent` (keys of the base that it lacks), or None.
    """
    known = [config for config in configs if config is not None]
    base: dict[str, Any] = {}
    for key in sorted({key for config in known for key in config}):
        most_common = Counter(_code(config, key) for config in known).most_common(1)[0][0]
        if most_common != ABSENT:
            base[key] = json.loads(most_common)
    differences: list[dict[str, Any] | None] = []
    for config in configs:
        if config is None:
            differences.append(None)
            continue
        changed = {key: value for key, value in config.items() if _code(base, key) != _code(config, key)}
        differences.append({"set": changed, "absent": sorted(key for key in base if key not in config)})
    return base, differences


def find_factors(configs: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """The keys in which configs differ, without those that stay out of identities: paths, logging, workers.

    Keys that vary together are one factor: those with equal values (`num_stages` and `model.num_stages`), and a class
    with the arguments that come with it. The class of the model is the factor `detector`, with all that follows from
    it: its arguments, its criterion, and the axes that some detector lacks. A key that is null or absent is one that a
    run does not have.

    Returns:
        for each factor `key`, `label` (short) and `also` (the other keys).
    """
    known = [config for config in configs if config is not None]
    keys = {key for config in known for key in config if not is_excluded(key)}
    codes = {key: [_known_code(config, key) for config in known] for key in keys}
    varying = [key for key in keys if len(set(codes[key])) > 1]
    groups: dict[str, list[str]] = {}
    for key in sorted(varying, key=lambda key: (key != DETECTOR, not key.endswith(TARGET), key.count("."), key)):
        first = next((first for first in groups if _varies_with(first, key, codes)), None)
        if first is None:
            groups[key] = []
        else:
            groups[first].append(key)
    factors = [{"key": key, "label": _label(key), "also": also} for key, also in groups.items()]
    return sorted(factors, key=lambda factor: factor["label"])


def find_other_keys(configs: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """The keys that stay out of identities."""
    return sorted({key for config in configs if config is not None for key in config if is_excluded(key)})


def _varies_with(first: str, key: str, codes: Mapping[str, Sequence[str]]) -> bool:
    if codes[first] == codes[key]:
        return True
    node = first.removesuffix(TARGET)
    belongs = first.endswith(TARGET) and (key == node or key.startswith(f"{node}."))
    if first == DETECTOR:
        belongs = key.startswith(DETECTOR_NODES) or ABSENT in codes[key]
    return belongs and len(set(zip(codes[first], codes[key], strict=True))) == len(set(codes[first]))


def _label(key: str) -> str:
    return "detector" if key == DETECTOR else key.removesuffix(TARGET).removeprefix("model.")


def _code(config: Mapping[str, Any], key: str) -> str:
    return json.dumps(config[key], sort_keys=True) if key in config else ABSENT


def _known_code(config: Mapping[str, Any], key: str) -> str:
    return _code(config, key) if config.get(key) is not None else ABSENT


def _plain(value: Any) -> Any:
    """1.0 is 1, as in a run's identity; what JSON lacks (NaN, infinity) becomes its name."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return str(value) if not math.isfinite(value) else int(value) if value.is_integer() else value
    return value
