"""Differences between configurations, as data; text is made of them where they are shown or written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TARGET = "_target_"


class _Absent:
    """In place of the value of a key that a configuration lacks."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


@dataclass(frozen=True)
class ClassName:
    """The class of a node in a shortened change: its name, and the arguments that only the new class has."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value_text(value)}" for key, value in self.arguments)
        return f"{self.name}({arguments})" if arguments else self.name


@dataclass(frozen=True)
class Change:
    """A dotted key and its two values; `ABSENT` where a configuration lacks the key.

    Attributes:
        lists: of an item of lists that differ in every item, their key and both of them; `ABSENT` where there is none.
    """

    key: str
    old: Any
    new: Any
    lists: tuple[str, Any, Any] | None = None

    def __str__(self) -> str:
        return f"{self.key}: {value_text(self.old)} -> {value_text(self.new)}"


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """The keys in which two configurations differ, sorted; 1 and 1.0 are equal."""
    flat_a, flat_b = flatten(a), flatten(b)
    whole_a, whole_b = flatten(a, whole_lists=True), flatten(b, whole_lists=True)
    found = []
    for key in sorted({*flat_a, *flat_b}):
        old, new = flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)
        if value_text(old) != value_text(new):
            name = key.rpartition("[")[0] if key.endswith("]") else ""
            lists = (name, whole_a.get(name, ABSENT), whole_b.get(name, ABSENT))
            found.append(Change(key, old, new, lists if name and _share_no_item(*lists[1:]) else None))
    return found


def shorten(full: Sequence[Change]) -> list[Change]:
    """Changes for a reader, without those that follow from another one.

    A plain axis (`num_stages`) stands for the nodes that it reaches, and an exchanged class for its node's arguments:
    those that only the new class has stand behind its name, but for those of nodes within it. A list that differs in
    all items is one change.
    """
    merged = {change.lists[0] if change.lists else change.key: change for change in full}
    full = [Change(*change.lists) if change.lists else change for change in merged.values()]
    values = {change.key: (value_text(change.old), value_text(change.new)) for change in full}
    nodes = {change.key.removesuffix(f".{TARGET}"): change for change in full if change.key.endswith(f".{TARGET}")}
    shown = []
    for change in full:
        node = next((n for n in nodes if change.key == n or change.key.startswith(f"{n}.")), None)
        if node is not None and (change.key.endswith(f".{TARGET}") or ABSENT in (change.old, change.new)):
            if change is nodes[node]:
                shown.append(_class_change(node, full))
        elif "." not in change.key or values.get(change.key.rpartition(".")[2]) != values[change.key]:
            shown.append(change)
    return shown


def flatten(config: Any, path: str = "", whole_lists: bool = False) -> dict[str, Any]:
    """Dotted keys to scalars; items of a list are `key[0]`, an empty node or list is a value of its own.

    Args:
        config: plain dicts, lists and scalars.
        path: the key that ``config`` itself stands under.
        whole_lists: keep a list of scalars as one value.
    """
    if isinstance(config, Mapping) and config:
        children = [(f"{path}.{key}" if path else str(key), value) for key, value in config.items()]
    elif isinstance(config, (list, tuple)) and config and not (whole_lists and _is_flat(config)):
        children = [(f"{path}[{index}]", value) for index, value in enumerate(config)]
    else:
        return {path: config} if path else {}
    return {key: value for name, child in children for key, value in flatten(child, name, whole_lists).items()}


def canonical(value: Any) -> Any:
    """A value in the one spelling that identities and differences compare: 1.0 is 1, a tuple is a list."""
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def value_text(value: Any) -> str:
    """A value of a change as text: JSON, `(absent)`, or the name of a class."""
    if value is ABSENT or isinstance(value, ClassName):
        return str(value)
    return json.dumps(canonical(value), ensure_ascii=False, default=str)


def texts(items: Iterable[Change]) -> list[str]:
    """One line for each change (`model.num_stages: 3 -> 6`)."""
    return [str(change) for change in items]


def _class_change(node: str, full: Sequence[Change]) -> Change:
    own = {c.key.removeprefix(f"{node}."): c for c in full if c.key.startswith(f"{node}.")}
    target = own[TARGET]
    added = tuple((k, c.new) for k, c in own.items() if "." not in k and k != TARGET and c.old is ABSENT)
    old, new = (ClassName(t.rpartition(".")[2] if isinstance(t, str) else "none") for t in (target.old, target.new))
    return Change(node.rpartition(".")[2], old, ClassName(new.name, added))


def _share_no_item(old: Any, new: Any) -> bool:
    sides = [side if isinstance(side, (list, tuple)) else [] for side in (old, new)]
    return any(sides) and all(value_text(x) != value_text(y) for x, y in zip(*sides, strict=False))


def _is_flat(items: Sequence[Any]) -> bool:
    return not any(isinstance(item, (Mapping, list, tuple)) for item in items)
