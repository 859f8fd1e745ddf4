"""From a composed Hydra config to a checked plain dict: what is wrong fails here, before any data loads."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from experiments.config.axes import check_axes
from experiments.config.schema import PATH_KEYS
from experiments.config.targets import ConfigError, Injected, check_targets, did_you_mean, join

# Arguments that no YAML states: the data set knows the classes, the run its directory (``experiments.config.build``).
INJECTED: Injected = {
    "model": {"num_classes"},
    "model.stage": {"num_classes"},
    "log.writers.*": {"run_path", "run_id", "config"},
}


def validate(cfg: DictConfig, injected: Injected = INJECTED, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Resolve a composed config and check all of it; the result is plain dicts, lists and scalars.

    Checked are: no `???` left, every interpolation resolves, dataclass nodes hold no key but their fields and
    pass their `__post_init__`, `_target_` nodes fit their constructor (`check_targets`, also for `injected`).

    Args:
        overrides: that it is composed with; a model or a criterion that they choose may be another detector's.

    Raises:
        ConfigError: the first mistake found, in one line that begins with the dotted key.
    """
    with _naming_chosen_part(cfg, overrides):
        config = resolve(cfg)
        _check_dataclasses(cfg, "")
        check_axes(config)
        check_targets(config, injected)
    return config


@contextmanager
def _naming_chosen_part(cfg: DictConfig, overrides: Sequence[str]) -> Iterator[None]:
    """Where a model or a criterion was chosen by itself and does not fit what the detector fills, say so first."""
    try:
        yield
    except ConfigError as error:
        chosen = [override for override in overrides if override.startswith(("model=", "criterion="))]
        if not chosen or "detector" not in cfg or not re.match(r"(model|criterion)\b", str(error)):
            raise
        raise ConfigError(
            f"{chosen[-1]} does not fit detector={cfg.detector.name}: a {chosen[-1].partition('=')[0]} belongs to its "
            f"detector; leave it out and choose detector=... ({error})"
        ) from error


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A composed config as plain dicts, lists and scalars, with the home folder for a leading ``~`` of paths.

    Raises:
        ConfigError: a key has no value, or its interpolation does not resolve.
    """
    missing, unresolved = _unset(cfg, "")
    if missing:
        others = f" (also missing: {', '.join(missing[1:])})" if missing[1:] else ""
        raise ConfigError(f"{missing[0]}: has no value; set it on the command line: {missing[0]}=...{others}")
    if unresolved:
        raise ConfigError(unresolved[0])
    config: dict[str, Any] = _plain(OmegaConf.to_container(cfg, resolve=True))
    for key in PATH_KEYS:
        _expand_home(config, key)
    return config


def _expand_home(config: dict[str, Any], dotted_key: str) -> None:
    *parents, key = dotted_key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent)
        if not isinstance(node, dict):
            return
    if isinstance(node.get(key), str):
        node[key] = os.path.expanduser(node[key])


def instantiate_options(node: Any) -> dict[str, Any]:
    """Keyword arguments for `hydra.utils.instantiate` of a plain node: none before Hydra 1.4, then what it may call.

    That is what the node itself names: a checked configuration is the user's own, from YAML and the command line, and
    trusted as code is, their own classes included. A file from elsewhere is not (`sparse_rcnn.architecture`).
    """
    has_whitelist = hasattr(hydra.utils, "execution_whitelist")
    return {"_execution_whitelist_": sorted(set(_targets(node)))} if has_whitelist else {}


def _targets(node: Any) -> list[str]:
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    own = [node["_target_"]] if isinstance(node, Mapping) and "_target_" in node else []
    return own + [target for child in children for target in _targets(child)]


def _unset(node: Any, path: str) -> tuple[list[str], list[str]]:
    """The keys left at `???`, and a message for each interpolation that does not resolve."""
    missing, unresolved = [], []
    for key, child_path in _children(node, path):
        try:
            child = node[key]
        except MissingMandatoryValue:
            missing.append(child_path)
        except InterpolationToMissingValueError:
            pass  # what it points to is reported
        except OmegaConfBaseException as error:
            unresolved.append(f"{child_path}: {_first_line(error)}")
        except RecursionError:
            unresolved.append(f"{child_path}: its interpolation leads back to itself")
        else:
            more_missing, more_unresolved = _unset(child, child_path)
            missing += more_missing
            unresolved += more_unresolved
    return missing, unresolved


def _check_dataclasses(node: Any, path: str) -> None:
    for key, child_path in _children(node, path):
        _check_dataclasses(node[key], child_path)
    schema = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
    if schema is None or not dataclasses.is_dataclass(schema):
        return
    # `+train.epohcs=3` adds a key to a strict node without complaint.
    fields = [field.name for field in dataclasses.fields(schema)]
    for key in node:
        if key not in fields and not issubclass(schema, dict):
            listed = ", ".join(fields)
            raise ConfigError(f"{join(path, key)}: unknown key{did_you_mean(key, fields)} (accepted: {listed})")
    try:
        OmegaConf.to_object(node)
    except ValueError as error:
        message = _first_line(error)
        begins_with_field = message.split(" ", 1)[0].rstrip(":,") in fields
        raise ConfigError(_prefixed(path, message, "." if begins_with_field else ": ")) from error


def _children(node: Any, path: str) -> list[tuple[Any, str]]:
    if OmegaConf.is_dict(node):
        return [(key, join(path, key)) for key in node]
    if OmegaConf.is_config(node):  # a list, and from Hydra 1.4 on a tuple
        return [(index, f"{path}[{index}]") for index in range(len(node))]
    return []


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, PurePath) else value


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _prefixed(path: str, message: str, separator: str) -> str:
    return message if not path or message.startswith(path) else path + separator + message
