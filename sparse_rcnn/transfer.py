"""Starting a detector from another one's weights: all that fits is taken, the rest stays as it was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.convert import untraced_settings
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.state_dicts import first_three

LEAST_SHARE = 0.05  # of a model's numbers, below which its weights would not be those of the file in any sense


@dataclass(frozen=True)
class Transfer:
    """The part of a weights file that fits a detector.

    Attributes:
        whole: names of tensors that are taken as they are.
        rows: of tensors that are taken in part, the rows of the model and those of the file that they come from.
        drawn: names of tensors of the model that stay as they were drawn, each with the reason.
        unused: names of tensors of the file that are left out.
        share: part of the model's numbers that is taken, those of the class layers not counted.
        notes: on classes, proposals and settings, for people.
    """

    whole: list[str]
    rows: dict[str, tuple[list[int], list[int]]]
    drawn: dict[str, str]
    unused: list[str]
    share: float
    notes: list[str]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor is taken as it is, and no other is left."""
        return not (self.rows or self.drawn or self.unused)

    def describe(self) -> str:
        """One line on what is taken and what is not."""
        num_tensors = len(self.whole) + len(self.rows) + len(self.drawn)
        if self.is_complete:
            return "; ".join([f"took all {num_tensors} tensors", *self.notes])
        parts = [f"took {len(self.whole) + len(self.rows)} of {num_tensors} tensors", *self.notes]
        misfits = [f"{name} ({reason})" for name, reason in self.drawn.items() if reason]
        if misfits:
            parts.append(f"drawn anew: {first_three(misfits)}")
        if self.unused:
            parts.append(f"left out: {first_three(self.unused)}")
        return "; ".join(parts)


def plan_transfer(
    model: DetectorModule,
    architecture: Mapping[str, object],
    class_names: Sequence[str] | None,
    shapes: Mapping[str, Sequence[int]],
    card: ModelCard,
    source: str,
) -> Transfer:
    """The part of a weights file that a detector, which may be on the meta device, can take.

    A tensor of the same name and shape is taken. Of class layers the rows of those classes are taken that both have,
    by name, and those of no class ('no object', background); of learned proposals as many as both have. Stages are
    those of the same index.

    Args:
        architecture: of the detector.
        class_names: of the detector, in the order of its labels; None where they are not known yet.
        shapes: of the tensors of the file, by name.
        card: of the file.
        source: the file, for messages.

    Raises:
        CheckpointError: next to nothing fits, and names the first tensors; or the file names more or fewer classes than
            its layers have.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(shape) for name, shape in shapes.items()}
    by_class, by_proposal = model.class_tensors(), model.proposal_tensors()
    class_labels, class_note = _shared_labels(class_names, card.class_names)
    whole, rows, drawn = [], {}, {}
    for name, shape in wanted.items():
        if name not in given:
            drawn[name] = "" if name in by_class else "absent from the file"
        elif name in by_class and (by_class[name].num_rows(len(card.categories)),) != given[name][:1]:
            if card.architecture.get("_target_") != architecture.get("_target_"):
                drawn[name] = "its rows in the file are of another detector's classes"
            elif by_class[name].num_groups > 1:  # the file may have another number of them
                drawn[name] = f"{given[name]} in the file, {shape} here"
            else:
                raise CheckpointError(_wrong_rows(source, name, by_class[name], given[name], card))
        elif name in by_class and class_labels is not None and given[name][1:] == shape[1:]:
            rows[name] = _rows_of(by_class[name], *class_labels, shape[0], given[name][0])
            if not rows[name][0]:
                del rows[name]
                drawn[name] = ""
        elif given[name] == shape:
            whole.append(name)
        elif name in by_proposal and given[name][1:] == shape[1:]:
            both = list(range(min(given[name][0], shape[0])))
            rows[name] = (both, both)
        else:
            drawn[name] = f"{given[name]} in the file, {shape} here"
    counted = [name for name in wanted if name not in by_class]
    num_taken = sum(prod(wanted[name]) for name in whole if name not in by_class)
    num_taken += sum(len(rows[name][0]) * prod(wanted[name][1:]) for name in counted if name in rows)
    share = num_taken / max(1, sum(prod(wanted[name]) for name in counted))
    unused = [name for name in given if name not in wanted]
    if share < LEAST_SHARE:
        problems = [f"{name} ({reason})" for name, reason in drawn.items() if reason]
        raise CheckpointError(
            f"{source} has next to nothing for this model ({share:.1%} of its numbers): {first_three(problems)}"
        )
    notes = [class_note] if by_class and class_note else []
    notes += [f"{name}: the first {len(r[0])} of {wanted[name][0]}" for name, r in rows.items() if name in by_proposal]
    return Transfer(whole, rows, drawn, unused, share, notes + _other_settings(architecture, card))


def apply_transfer(model: DetectorModule, transfer: Transfer, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put what fits of the tensors of a file into a detector.

    Raises:
        CheckpointError: a number of them is not finite; names the tensor.
    """
    taken = [*transfer.whole, *transfer.rows]
    if infinite := [name for name in taken if not tensors[name].isfinite().all()]:
        raise CheckpointError(f"{source} holds numbers that are not finite, in {infinite[0]}")
    own = model.state_dict()
    with torch.no_grad():
        for name in transfer.whole:
            own[name].copy_(tensors[name])
        for name, (to_rows, from_rows) in transfer.rows.items():
            own[name][to_rows] = tensors[name][from_rows].to(own[name])


def _rows_of(
    layout: ClassRows, labels: Sequence[int], labels_in_file: Sequence[int], num_rows: int, num_rows_in_file: int
) -> tuple[list[int], list[int]]:
    """Rows of a class layer of these classes, and those of no class, ours and the file's."""
    here, there = layout.num_classes(num_rows), layout.num_classes(num_rows_in_file)
    ours = layout.of_none(here) + [row for label in labels for row in layout.of_class(label, here)]
    theirs = layout.of_none(there) + [row for label in labels_in_file for row in layout.of_class(label, there)]
    return ours, theirs


def _wrong_rows(source: str, name: str, layout: ClassRows, shape: Sequence[int], card: ModelCard) -> str:
    rows = f"{shape[0]}" if layout == ClassRows() else f"{shape[0]} rows, not {layout.num_rows(len(card.categories))}"
    return f"{source} names {len(card.categories)} classes, its {name} has {rows}"


def _shared_labels(
    names: Sequence[str] | None, names_in_file: Sequence[str]
) -> tuple[tuple[list[int], list[int]] | None, str]:
    """Labels of the classes that both have, ours and the file's, and a note; None where all labels are the same."""
    if names is None:
        return ([], []), ""
    if list(names) == list(names_in_file):
        return None, ""
    ours, theirs = list(names), list(names_in_file)
    shared = [name for name in ours if ours.count(name) == theirs.count(name) == 1]
    if not shared:
        return ([], []), (
            f"class layers drawn anew for {first_three(_quoted(names))}: the file's classes are "
            f"{first_three(_quoted(names_in_file))}"
        )
    labels = ([ours.index(name) for name in shared], [theirs.index(name) for name in shared])
    new = [name for name in names if name not in shared]
    note = f"class layers taken by name for {first_three(_quoted(shared))}"
    return labels, note + (f", drawn anew for {first_three(_quoted(new))}" if new else "")


def _other_settings(architecture: Mapping[str, object], card: ModelCard) -> list[str]:
    """Settings that leave no trace in the tensors and that are not those of the file: it detects with the file's."""
    ours, theirs = untraced_settings(dict(architecture)), untraced_settings(card.architecture)
    return [
        f"{key} is {ours[key]} here and {value} in the file"
        for key, value in theirs.items()
        if key in ours and ours[key] != value
    ]


def _quoted(names: Sequence[str]) -> list[str]:
    return [repr(name) for name in names]
