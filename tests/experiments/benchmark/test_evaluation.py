"""The parts of COCO evaluation add up, with either library."""

from __future__ import annotations

import pytest

from experiments.benchmark.evaluation import MATCHING, REST, evaluation_rows


def test_the_parts_are_the_whole() -> None:
    rows = evaluation_rows(2, num_images=10)
    assert [row.setting for row in rows] == [f"eval.backend={n}" for n in ("pycocotools", "hotcoco") for _ in range(3)]
    for i in (0, 3):
        parts = {row.part: row.seconds for row in rows[i : i + 3]}
        assert set(parts) == {MATCHING, REST, "total"}
        assert parts["total"] == pytest.approx([a + b for a, b in zip(parts[MATCHING], parts[REST], strict=True)])
        assert min(parts[MATCHING]) > 0
