"""Reading training samples, part by part, on one core."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from experiments.benchmark.measure import TOTAL, interleaved
from experiments.benchmark.report import Row
from experiments.benchmark.workload import Setting
from experiments.config.build import build_datasets
from experiments.config.rows import compose_row
from experiments.run.embedded_data import ensure_data
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.image import read_image

NUM_IMAGES = 64


def data_rows(recipe: str, row: str, overrides: Sequence[str], num_repeats: int) -> list[Row]:
    """Decoding, augmentation and collation of the first training images, without a cache."""
    config = compose_row(recipe, row, [*overrides, "data.cache_images=false"], stand_ins=False)
    ensure_data(config)
    dataset, _ = build_datasets(config)
    indices = range(min(NUM_IMAGES, len(dataset)))

    def side() -> dict[str, float]:
        started = perf_counter()
        for i in indices:
            height, width = (int(side) for side in dataset.image_sizes_hw[i])
            path = dataset.images_path / dataset.file_names[i]
            read_image(path, dataset.image_ids[i], (height, width), dataset.pixel_range, dataset.max_megapixels)
        decoded = perf_counter()
        samples = [dataset[(0, i)] for i in indices]
        read = perf_counter()
        collate(samples, 32)
        done = perf_counter()
        decode = decoded - started
        parts = {"decode": decode, "augment": read - decoded - decode, "collate": done - read}
        return {**parts, TOTAL: sum(parts.values())}

    setting = Setting(f"{len(indices)} images")
    measured = interleaved({setting.name: side}, num_repeats)[setting.name]
    return [Row("data", setting.name, part, seconds) for part, seconds in measured.items()]
