"""The rows of the paper's tables: the experiment that is each of them, and what was published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

# Table to experiments, in the order of the table's own rows (tables.json).
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "table1": (
        "retinanet",
        "retinanet_backbone_resnet101",
        "faster_rcnn",
        "faster_rcnn_backbone_resnet101",
        "cascade_rcnn",
        "detr",
        "detr_backbone_resnet101",
        "detr_dc5",
        "detr_dc5_backbone_resnet101",
        "deformable_detr",
        "baseline",
        "backbone_resnet101",
        "num_proposals_300_crop",
        "backbone_resnet101_num_proposals_300_crop",
    ),
    "table2": ("head_fc_reuse_none_stages_1", "head_fc_reuse_concat", "baseline"),
    "table3": ("head_fc_reuse_none_stages_1", "head_fc_reuse_none", "head_fc_reuse_concat"),
    "table4": ("head_fc_reuse_concat", "head_none", "baseline"),
    "table5": ("proposal_init_center", "baseline", "proposal_init_grid", "proposal_init_random"),
    "table6": ("baseline", "num_proposals_300", "num_proposals_500"),
    "table7": ("stages_1", "stages_2", "stages_3", "stages_6", "stages_12"),
    "table8": ("head_attention", "baseline"),
    "table9": ("detr_epochs_300", "detr_without_position", "positional_encoding_sine", "baseline"),
}


@dataclass(frozen=True)
class PublishedRow:
    """One row of one of the paper's tables: ``ap`` in percent on COCO val2017."""

    table: str
    experiment: str
    ap: float


def experiments_of(*tables: str) -> list[str]:
    """The rows of tables, each once."""
    return list(dict.fromkeys(name for table in tables for name in EXPERIMENTS[table]))


def published_rows(table: str) -> list[PublishedRow]:
    """The rows of a table."""
    rows = published_tables()[table]["rows"]
    return [
        PublishedRow(table, experiment, row["AP"]) for experiment, row in zip(EXPERIMENTS[table], rows, strict=True)
    ]


def published_tables() -> dict[str, dict]:
    """Everything in tables.json: titles, rows, notes."""
    return json.loads((resources.files("analysis.paper") / "tables.json").read_text())
