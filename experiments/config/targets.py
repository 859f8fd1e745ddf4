"""The check of `_target_` nodes against their constructors: keys, required arguments, types."""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sparse_rcnn.errors import UserError

Injected = Mapping[str, Iterable[str]]

CONTROL_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")
_CONVERT_MODES = ("none", "partial", "object", "all")
_LIST_LIKE = (list, tuple, set, frozenset, Sequence, Iterable, Collection, AbstractSet)


class ConfigError(UserError):
    """A mistake in the configuration; the message begins with the dotted key."""


def check_targets(config: Any, injected: Injected | None = None, path: str = "") -> None:
    """Check every `_target_` node of a resolved plain config, at any depth, against its constructor.

    Args:
        config: plain dicts, lists and scalars.
        injected: names that code passes to a constructor itself, by the node's dotted path (its last part may
            be `*`) or its `_target_`.
            They need not be in the config, and may not be: what is written there would be ignored.
        path: dotted path of `config`, for the messages.

    Raises:
        ConfigError: the first mistake found, naming its dotted key.
    """
    injected = injected or {}
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_node(config, injected, path)
        for key, value in config.items():
            check_targets(value, injected, join(path, key))
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            check_targets(value, injected, f"{path}[{index}]")


def join(path: str, key: object) -> str:
    """`a.b` and `c` as `a.b.c`; the root's path is the empty string."""
    return f"{path}.{key}" if path else str(key)


def did_you_mean(word: object, possibilities: Iterable[object]) -> str:
    """`; did you mean 'x'?`, or nothing where no name is near."""
    close = difflib.get_close_matches(str(word), [str(name) for name in possibilities], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def locate(target: Any, path: str) -> Any:
    """Import what a `_target_` names: a class, or a function, also one nested in a class.

    Raises:
        ConfigError: `target` is no dotted name, or does not exist, or its module cannot be imported.
    """
    key = join(path, "_target_")
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{key}: expected the dotted name of a class, got {target!r}")
    parts = target.split(".")
    module, depth = None, 0
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise ConfigError(f"{key}: {target} cannot be imported: {error}") from error
            depth -= 1
            break
        except ImportError as error:
            raise ConfigError(f"{key}: {target} cannot be imported: {error}") from error
    if module is None:
        raise ConfigError(f"{key}: {target} does not exist (there is no module {parts[0]!r})")
    found: Any = module
    for index in range(depth, len(parts)):
        try:
            found = getattr(found, parts[index])
        except AttributeError as error:
            owner = ".".join(parts[:index])
            submodules = [name for _, name, _ in pkgutil.iter_modules(getattr(found, "__path__", []))]
            hint = did_you_mean(parts[index], [*dir(found), *submodules])
            message = f"{key}: {target} does not exist ({owner} has no {parts[index]!r}){hint}"
            raise ConfigError(message) from error
    if not callable(found):
        raise ConfigError(f"{key}: {target} is not a class or function")
    return found


def _check_node(node: Mapping[str, Any], injected: Injected, path: str) -> None:
    target = node["_target_"]
    constructor = locate(target, path)
    _check_control_keys(node, path)
    try:
        parameters = inspect.signature(constructor).parameters
    except (TypeError, ValueError):  # some built-in classes have no signature
        return
    children = join(path.rpartition(".")[0], "*")
    given_by_code = {*injected.get(path, ()), *injected.get(children, ()), *injected.get(target, ())}
    takes_any_key = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    accepted = [name for name in names if name not in given_by_code]
    keys = [key for key in node if key not in CONTROL_KEYS]

    for key in keys:
        if key in given_by_code:
            raise ConfigError(f"{join(path, key)}: is passed to {target} by the program; remove it")
        if key not in names and not takes_any_key:
            absent = [name for name in accepted if name not in node]
            hint = did_you_mean(key, absent) or did_you_mean(key, [*accepted, *CONTROL_KEYS])
            listed = ", ".join(accepted) or "nothing"
            raise ConfigError(f"{join(path, key)}: unknown key{hint} ({target} accepts: {listed})")
    if not node.get("_partial_", False):
        for name in accepted:
            if parameters[name].default is inspect.Parameter.empty and name not in node:
                raise ConfigError(f"{join(path, name)}: missing, {target} requires it")

    hints = _annotations(constructor)
    recursive = node.get("_recursive_", True)
    for key in keys:
        if key in hints and key in names:
            _check_value(node[key], hints[key], join(path, key), recursive)


def _check_control_keys(node: Mapping[str, Any], path: str) -> None:
    if "_args_" in node:
        raise ConfigError(f"{join(path, '_args_')}: positional arguments are not accepted, give them by name")
    for key in ("_partial_", "_recursive_"):
        if not isinstance(node.get(key, False), bool):
            raise ConfigError(f"{join(path, key)}: expected true or false, got {node[key]!r}")
    if node.get("_convert_", "none") not in _CONVERT_MODES:
        raise ConfigError(f"{join(path, '_convert_')}: expected one of {', '.join(_CONVERT_MODES)}")


def _annotations(constructor: Any) -> dict[str, Any]:
    """The evaluated annotations by parameter; one that cannot be evaluated is left out, the others stay."""
    is_class = isinstance(constructor, type)
    function = inspect.unwrap(getattr(constructor, "__init__") if is_class else constructor)  # noqa: B009
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            evaluated = typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}))
        except Exception:  # a name under TYPE_CHECKING, or anything else an annotation may hold
            continue
        hints[name] = evaluated[name]
    return hints


def _check_value(value: Any, annotation: Any, path: str, recursive: bool) -> None:
    problem = _mismatch(value, annotation, path, recursive)
    if problem:
        raise ConfigError(problem)


def _mismatch(value: Any, annotation: Any, path: str, recursive: bool) -> str | None:
    """The message for a value that the annotation does not admit, or None; an unknown one admits all."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    wrong = f"{path}: expected {_name(annotation)}, got {_describe(value)}"
    if _is_number_text(value) and float in (annotation, *arguments):
        wrong += " (write the number without quotes)"

    if origin in (typing.Union, types.UnionType):
        problems = [_mismatch(value, option, path, recursive) for option in arguments]
        if not all(problems):
            return None
        # With one real option (`X | None`) its own message says more, such as the index of a wrong item.
        real = [p for p, a in zip(problems, arguments, strict=True) if p is not None and a is not type(None)]
        return real[0] if len(real) == 1 and _path_of(real[0]) != path else wrong
    if origin is typing.Literal:
        return None if any(value == a and type(value) is type(a) for a in arguments) else wrong
    if origin is typing.Annotated:
        return _mismatch(value, arguments[0], path, recursive)
    if annotation is None or annotation is type(None):
        return None if value is None else wrong
    if annotation is bool:
        return None if isinstance(value, bool) else wrong
    if annotation is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else wrong
    if annotation is float:
        return None if isinstance(value, (int, float)) and not isinstance(value, bool) else wrong
    if annotation is str:
        return None if isinstance(value, str) else wrong
    if (origin or annotation) in _LIST_LIKE:
        return _list_mismatch(value, origin or annotation, arguments, path, recursive) or None
    if (origin or annotation) in (dict, Mapping):
        return _dict_mismatch(value, arguments, path, recursive)
    if origin is None and isinstance(annotation, type):
        return _class_mismatch(value, annotation, path, recursive)
    return None


def _list_mismatch(value: Any, origin: Any, arguments: tuple, path: str, recursive: bool) -> str | None:
    if isinstance(value, Mapping) and "_target_" in value and recursive:
        return None  # whatever it builds may be a list
    if not isinstance(value, (list, tuple)):
        return f"{path}: expected a list, got {_describe(value)}"
    fixed_length = origin is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed_length and len(value) != len(arguments):
        return f"{path}: expected a list of {len(arguments)} values, got {len(value)}"
    item_types = arguments if fixed_length else arguments[:1] * len(value)
    for index, (item, item_type) in enumerate(zip(value, item_types, strict=False)):
        problem = _mismatch(item, item_type, f"{path}[{index}]", recursive)
        if problem:
            return problem
    return None


def _dict_mismatch(value: Any, arguments: tuple, path: str, recursive: bool) -> str | None:
    if not isinstance(value, Mapping):
        return f"{path}: expected a mapping, got {_describe(value)}"
    if len(arguments) == 2 and "_target_" not in value:
        for key, item in value.items():
            problem = _mismatch(item, arguments[1], join(path, key), recursive)
            if problem:
                return problem
    return None


def _class_mismatch(value: Any, annotation: type, path: str, recursive: bool) -> str | None:
    wrong = f"{path}: expected {_name(annotation)}, got {_describe(value)}"
    if annotation in (object, Any) or getattr(annotation, "_is_protocol", False) or not recursive:
        return None
    if issubclass(annotation, enum.Enum):
        names = [name for member in annotation for name in (member.name, member.value)]
        return None if isinstance(value, annotation) or value in names else wrong
    if not isinstance(value, Mapping):
        # A path is written as text; another class comes from a `_target_` node or, if it can, from code.
        is_path = hasattr(annotation, "__fspath__") and isinstance(value, str)
        return None if is_path or isinstance(value, annotation) else wrong
    if "_target_" not in value:
        return None if issubclass(annotation, dict) else f"{wrong} without a _target_"
    target = locate(value["_target_"], path)
    if value.get("_partial_", False) or not isinstance(target, type) or issubclass(target, annotation):
        return None
    return f"{path}: expected {_name(annotation)}, but {value['_target_']} is none"


def _is_number_text(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _path_of(problem: str) -> str:
    return problem.split(": ", 1)[0]


def _name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    text = inspect.formatannotation(annotation).replace("typing.", "").replace("collections.abc.", "")
    return text.replace("NoneType", "null").replace("None", "null")


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return f"a node of {value['_target_']}" if "_target_" in value else "a mapping"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
