"""Differences between configurations, for a reader."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.identity import ABSENT


def compact(differences: Sequence[str]) -> list[str]:
    """Differences for a reader: what follows from another one is left out.

    A plain axis (`num_stages`) stands for the nodes that it reaches, and an exchanged class for its node's
    arguments: those that only the new class has stand behind its name.
    """
    changes: dict[str, tuple[str, str]] = {}
    for line in differences:
        key, _, change = line.partition(": ")
        old, _, new = change.partition(" -> ")
        changes[key] = (old, new)
    shown = []
    classes = {key.removesuffix("._target_"): change for key, change in changes.items() if key.endswith("._target_")}
    for key, (old, new) in changes.items():
        node = next((n for n in classes if key == n or key.startswith(f"{n}.")), None)
        if node is not None and (key.endswith("._target_") or ABSENT in (old, new)):
            if key == f"{node}._target_":
                shown.append(_class_change(node, changes))
        elif "." not in key or changes.get(key.rpartition(".")[2]) != (old, new):
            shown.append(f"{key}: {old} -> {new}")
    return shown


def _class_change(node: str, changes: dict[str, tuple[str, str]]) -> str:
    names = changes[f"{node}._target_"]
    old, new = ("none" if name == ABSENT else name.strip('"').rpartition(".")[2] for name in names)
    added = {
        key.removeprefix(f"{node}."): change[1]
        for key, change in changes.items()
        if key.startswith(f"{node}.") and not key.endswith("_target_") and change[0] == ABSENT
    }
    arguments = ", ".join(f"{key}={value}" for key, value in added.items())
    return f"{node.rpartition('.')[2]}: {old} -> {new}" + (f"({arguments})" if arguments else "")
