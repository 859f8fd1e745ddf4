"""The rows of the paper's tables: the experiment that is each of them, and what was published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

# Table to experiments, in the order of the table's own rows (tables.json); None is a detector of another kind.
EXPERIMENTS: dict[str, tuple[str | None, ...]] = {
    "table1": (
        *[None] * 10,
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
    "table9": (None, None, "positional_encoding_sine", "baseline"),
}


@dataclass(frozen=True)
class PublishedRow:
    """One row of one of the paper's tables: ``ap`` in percent on COCO val2017."""

    table: str
    experiment: str
    ap: float


def experiments_of(*tables: str) -> list[str]:
    """The rows of tables that this suite trains, each once."""
    return list(dict.fromkeys(name for table in tables for name in EXPERIMENTS[table] if name is not None))


def published_rows(table: str) -> list[PublishedRow]:
    """The rows of a table that this suite trains."""
    rows = published_tables()[table]["rows"]
    return [
        PublishedRow(table, experiment, row["AP"])
        for experiment, row in zip(EXPERIMENTS[table], rows, strict=True)
        if experiment is not None
    ]


def published_tables() -> dict[str, dict]:
    """Everything in tables.json: titles, rows, notes."""
    return json.loads((resources.files("analysis.paper") / "tables.json").read_text())
