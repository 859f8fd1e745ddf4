"""The views of all runs under a budget of bytes: pictures stored once, heat maps and last images left out first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.dashboard.pack import PackedView

_PER_ENTRY = 40  # bytes of keys and commas around a base64 text


def collect_views(views: Mapping[str, Sequence[PackedView]], budget: int) -> dict[str, Any]:
    """The content of the viewer, in at most `budget` bytes of JSON (about).

    Args:
        views: for the key of each run its views.

    Returns:
        `pictures` (hash to base64), `scenes` (what runs share of an image), `runs` (key to a list of numbers with
        `scene`, the index of theirs, and `responses`), and `notes`: what was left out.
    """
    num_images = max((len(items) for items in views.values()), default=0)
    num_kept = next((n for n in range(num_images, 0, -1) if _size(views, n) <= budget), 0)
    spare = budget - _size(views, num_kept)
    num_heat = next((n for n in range(num_kept, 0, -1) if _responses_size(views, n) <= spare), 0)
    pictures: dict[str, str] = {}
    scenes: dict[str, dict[str, Any]] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    for key, items in views.items():
        runs[key] = []
        for index, view in enumerate(items[:num_kept]):
            scenes.setdefault(view.scene_key, view.scene)
            if view.picture:
                pictures[view.scene["picture"]] = view.picture
            responses = view.responses if index < num_heat else None
            runs[key].append({**view.numbers, "scene": view.scene_key, "responses": responses})
    order = {key: index for index, key in enumerate(scenes)}
    for entries in runs.values():
        for entry in entries:
            entry["scene"] = order[entry["scene"]]
    notes = _notes(num_images, num_kept, num_heat, any(view.responses for items in views.values() for view in items))
    return {"pictures": pictures, "scenes": list(scenes.values()), "runs": runs, "notes": notes}


def _notes(num_images: int, num_kept: int, num_heat: int, any_heat: bool) -> list[str]:
    notes = []
    if num_kept < num_images:
        kept = f"the first {num_kept} of {num_images} images of each run" if num_kept else "no images"
        notes.append(f"To stay within its size this page holds {kept}.")
    if any_heat and num_heat < num_kept:
        kept = f"the first {num_heat} images" if num_heat else "no image"
        notes.append(f"To stay within its size this page holds heat maps for {kept}.")
    return notes


def _size(views: Mapping[str, Sequence[PackedView]], num_images: int) -> int:
    """Bytes of the first images of every run, without heat maps."""
    total = 0
    pictures, scenes = {}, {}
    for items in views.values():
        for view in items[:num_images]:
            pictures[view.scene["picture"]] = len(view.picture)
            if view.scene_key not in scenes:
                scenes[view.scene_key] = len(json.dumps(view.scene))
            total += sum(len(value) for value in view.numbers.values() if isinstance(value, str)) + 4 * _PER_ENTRY
    return total + sum(size + 2 * _PER_ENTRY for size in [*pictures.values(), *scenes.values()])


def _responses_size(views: Mapping[str, Sequence[PackedView]], num_images: int) -> int:
    return sum(len(view.responses or "") for items in views.values() for view in items[:num_images])
