"""The categories of one data set among those of another: by id and name, else by name."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.findings import shortened
from sparse_rcnn.errors import DataError


def match_categories(
    categories: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], names: tuple[str, str]
) -> list[int]:
    """The place of each category among the reference's; equal ids with equal names, else equal names.

    Case and Unicode form do not count where names are distinct without them. The reference may have more.

    Args:
        categories, reference: dictionaries of id and name.
        names: of the two, for the message.

    Raises:
        DataError: a category is not among the reference's, or its name stands for several; names those that differ.
    """
    by_both = {(c["id"], c["name"]): i for i, c in enumerate(reference)}
    if all((c["id"], c["name"]) in by_both for c in categories):
        return [by_both[c["id"], c["name"]] for c in categories]
    for spelling in (str, plain_name):
        own, other = ([spelling(c["name"]) for c in group] for group in (categories, reference))
        places = {name: i for i, name in enumerate(other)}
        is_distinct = max(Counter(own).values()) == max(Counter(other).values()) == 1
        if is_distinct and set(own) <= places.keys():
            return [places[name] for name in own]
    own, other = ([str(c["name"]) for c in group] for group in (categories, reference))
    repeated = [name for group in (own, other) for name, count in Counter(group).items() if count > 1]
    if repeated:
        raise DataError(
            f"{names[0]} and {names[1]} number their categories differently, and the name {repeated[0]!r} is that of "
            "several categories: give each a name of its own, or equal ids in both"
        )
    unknown = [name for name in own if name not in other]
    absent = [name for name in other if name not in own]
    shown, known = (shortened([repr(name) for name in names]) for names in (unknown, absent))
    hint = f" (which has {known} in their place)" if absent else ""
    raise DataError(
        f"{names[0]} and {names[1]} have different categories: {shown} of the first "
        f"{'is' if len(unknown) == 1 else 'are'} not in the second{hint}"
    )


def without_foreign_roots(coco: CocoAnnotations, reference: Sequence[Mapping[str, Any]]) -> CocoAnnotations:
    """Annotations without the categories that have no boxes and whose names the reference lacks, as a root has none.

    Where there are no boxes at all, nothing can be said of a category, and all stay.
    """
    if not len(coco.labels):
        return coco
    known = {plain_name(category["name"]) for category in reference}
    is_known = np.array([plain_name(category["name"]) in known for category in coco.categories], np.bool_)
    return coco.with_categories(is_known | (np.bincount(coco.labels, minlength=len(coco.categories)) > 0))


def categories_in_order(
    reference: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]], places: Sequence[int]
) -> list[dict[str, Any]]:
    """The reference's categories with the ids that another data set has for them.

    A category that the other lacks keeps its id where that is free, else it gets the next one that is.

    Args:
        places: of `match_categories`.
    """
    own = {place: category["id"] for place, category in zip(places, categories, strict=True)}
    used = set(own.values())
    result = []
    for place, category in enumerate(reference):
        category_id = own.get(place)
        if category_id is None:
            category_id = category["id"] if category["id"] not in used else max(used) + 1
            used.add(category_id)
        result.append({"id": category_id, "name": category["name"]})
    return result


def plain_name(name: str) -> str:
    """A name without its case, its Unicode form and the spaces around it."""
    return unicodedata.normalize("NFKC", name).strip().casefold()
