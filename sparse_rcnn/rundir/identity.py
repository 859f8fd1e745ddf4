"""The identity of a run: a hash of what changes its result: configuration, data, weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.changes import canonical
from sparse_rcnn.rundir.file_digest import file_digest

# Dotted keys that do not change a run's result; `*` stands for one part of a key, and what lies below a key
# goes with it. The seed stands beside an identity, not in it: runs of one identity are repetitions.
# Paths go because the content of their files is hashed instead (`content` of `run_identity`).
EXCLUDED_KEYS = (
    "seed",
    "experiment_name",
    "recipe_name",
    "sweep",
    "detector",
    "scale",
    "input.crop_scale",
    "input.max_megapixels",
    "runs_root",
    "hydra",
    "log",
    "alerts",
    "weights",
    "weights.strict",
    "data.name",
    "data.root",
    "data.generator",
    "data.num_classes",
    "model.num_classes",
    "model.stage.num_classes",
    "data.drop_degenerate_boxes",
    "data.skip_unreadable",
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
    "train.compile",
    "eval",
)
# Keys that came after runs were trained, with the value that means 'as before': with it they stay out of an identity,
# so that finished runs keep theirs. Any other value enters.
VALUES_AS_BEFORE: dict[str, Any] = {
    "data.excluded_categories": [],
    "input.pixel_range": "auto",
    "train.lr_multipliers": {},
}
# The excluded keys of which an identity hashes the content in their place. Where configurations are compared without
# reading any data or weights, these keys are compared themselves.
CONTENT_KEYS = ("weights", "data.name", "data.generator")
IDENTITY_LENGTH = 12


def run_identity(config: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Twelve hex digits, equal for configurations that lead to the same result.

    Neither the order of keys nor the spelling of a number (1 or 1.0) matters.

    Args:
        config: the resolved configuration.
        content: what the configuration only points to: fingerprints of the annotation and weight files.
    """
    hashed = {"config": identity_config(config), "extra": content}
    text = json.dumps(canonical(hashed), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_LENGTH]


def identity_config(
    config: Mapping[str, Any],
    excluded_keys: Iterable[str] = EXCLUDED_KEYS,
    values_as_before: Mapping[str, Any] = VALUES_AS_BEFORE,
) -> dict[str, Any]:
    """The part of a configuration that enters its identity; a node of which nothing is left goes too."""
    patterns = [tuple(pattern.split(".")) for pattern in excluded_keys]
    return _without(config, patterns, values_as_before, ())


def compared_config(config: Mapping[str, Any], compared_keys: Iterable[str] = CONTENT_KEYS) -> dict[str, Any]:
    """The part of a configuration that decides its identity, some `CONTENT_KEYS` in place of what they point to."""
    return identity_config(config, set(EXCLUDED_KEYS) - set(compared_keys))


def is_excluded(key: str) -> bool:
    """Whether a dotted key, as `flatten` gives it, stays out of identities."""
    parts = tuple(part.partition("[")[0] for part in key.split("."))
    patterns = [tuple(pattern.split(".")) for pattern in EXCLUDED_KEYS]
    return any(_matches(parts[: len(pattern)], pattern) for pattern in patterns)


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
            _fingerprints[key] = file_digest(resolved).sha256
        return _fingerprints[key]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


_fingerprints: dict[tuple[str, int, int], str] = {}


def _without(
    node: Mapping[str, Any],
    patterns: list[tuple[str, ...]],
    values_as_before: Mapping[str, Any],
    path: tuple[str, ...],
) -> dict[str, Any]:
    kept = {}
    for key, value in node.items():
        here = (*path, str(key))
        if any(_matches(here, pattern) for pattern in patterns):
            continue
        dotted = ".".join(here)
        if dotted in values_as_before and canonical(value) == canonical(values_as_before[dotted]):
            continue
        if isinstance(value, Mapping) and value:
            value = _without(value, patterns, values_as_before, here)
            if not value:
                continue
        kept[str(key)] = value
    return kept


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))
