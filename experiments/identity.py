"""The identity of a run: a hash of what changes its result: configuration, data, weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sparse_rcnn.errors import UserError

# Dotted keys that do not change a run's result; `*` stands for one part of a key, and what lies below a key
# goes with it. The seed stands beside an identity, not in it: runs of one identity are repetitions.
# Paths go because the content of their files is hashed instead (`extra` of `run_identity`).
EXCLUDE = (
    "seed",
    "experiment_name",
    "recipe_name",
    "sweep",
    "scale",
    "input.crop_scale",
    "runs_root",
    "hydra",
    "log",
    "weights",
    "data.name",
    "data.root",
    "data.generator",
    "data.num_classes",
    "model.stage.num_classes",
    "data.drop_degenerate_boxes",
    "data.num_workers",
    "data.cache_images",
    "data.*.annotations",
    "data.*.images",
    "train.device",
    "train.num_micro_batches",
    "train.checkpoint_every",
    "train.log_every",
    "train.channels_last",
    "train.activation_checkpointing",
    "eval",
)
IDENTITY_LENGTH = 12
ABSENT = "(absent)"  # in place of a value
_ABSENT = object()


def run_identity(config: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    """Twelve hex digits, equal for configurations that lead to the same result.

    Neither the order of keys nor the spelling of a number (1 or 1.0) matters.

    Args:
        config: resolved plain config (`experiments.config.validate`).
        extra: what the config only points to: fingerprints of the annotation and weight files.
    """
    content = {"config": identity_config(config), "extra": extra}
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_LENGTH]


def identity_config(config: Mapping[str, Any], exclude: Iterable[str] = EXCLUDE) -> dict[str, Any]:
    """The part of a config that enters its identity; a node of which nothing is left goes too."""
    patterns = [tuple(pattern.split(".")) for pattern in exclude]
    return _without(config, patterns, ())


def explain_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """One line for each key in which two configs differ (`model.num_stages: 3 -> 6`), sorted by key."""
    flat_a, flat_b = flatten(a), flatten(b)
    lines = []
    for key in sorted({*flat_a, *flat_b}):
        old, new = flat_a.get(key, _ABSENT), flat_b.get(key, _ABSENT)
        if _text(old) != _text(new):
            lines.append(f"{key}: {_text(old)} -> {_text(new)}")
    return lines


def flatten(config: Any, path: str = "") -> dict[str, Any]:
    """Dotted keys to scalars; items of a list are `key[0]`, an empty node or list is a value of its own."""
    if isinstance(config, Mapping) and config:
        children = [(f"{path}.{key}" if path else str(key), value) for key, value in config.items()]
    elif isinstance(config, (list, tuple)) and config:
        children = [(f"{path}[{index}]", value) for index, value in enumerate(config)]
    else:
        return {path: config} if path else {}
    return {key: value for name, child in children for key, value in flatten(child, name).items()}


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's content in hex; a file that has not changed is read once per process.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        resolved = Path(path).resolve()
        stat = resolved.stat()
        key = (str(resolved), stat.st_size, stat.st_mtime_ns)
        if key not in _fingerprints:
            digest = hashlib.sha256()
            with resolved.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            _fingerprints[key] = digest.hexdigest()
        return _fingerprints[key]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


_fingerprints: dict[tuple[str, int, int], str] = {}


def _without(node: Mapping[str, Any], patterns: list[tuple[str, ...]], path: tuple[str, ...]) -> dict[str, Any]:
    kept = {}
    for key, value in node.items():
        here = (*path, str(key))
        if any(_matches(here, pattern) for pattern in patterns):
            continue
        if isinstance(value, Mapping) and value:
            value = _without(value, patterns, here)
            if not value:
                continue
        kept[str(key)] = value
    return kept


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _text(value: Any) -> str:
    if value is _ABSENT:
        return ABSENT
    return json.dumps(_canonical(value), ensure_ascii=False, default=str)
