"""A report of measured speeds: a file to compare with, a table to paste, a table to read."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.benchmark.measure import TOTAL
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import UserError

COLUMNS = ("benchmark", "setting", "part", "ms", "spread", "share", "GFLOP/s", "of peak", "GB/s", "of copy", "speed")


@dataclass(frozen=True)
class Row:
    """One measured part.

    Attributes:
        benchmark, setting, part: of what; `TOTAL` is the whole.
        seconds: of every pass.
        gflop: floating-point operations of a pass in 1e9, where they are counted.
        dtype: ``fp32`` or ``bf16``, whose peak the part is held against.
        gigabytes: that the operations of a pass read and write, where they are counted.
    """

    benchmark: str
    setting: str
    part: str
    seconds: list[float]
    gflop: float | None = None
    dtype: str = "fp32"
    gigabytes: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of a row among reports."""
        return self.benchmark, self.setting, self.part

    @property
    def median(self) -> float:
        """Seconds of the median pass."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Median absolute deviation from the median, in seconds."""
        return statistics.median([abs(value - self.median) for value in self.seconds])


@dataclass
class Report:
    """Rows in the order in which they were measured, on one machine (`machine.machine`)."""

    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as text, in the order of `COLUMNS`; ``speed`` is that of the benchmark's first setting over it."""
        totals = {(r.benchmark, r.setting): r.median for r in self.rows if r.part == TOTAL}
        firsts: dict[tuple[str, str], float] = {}
        lines: list[tuple[str, ...]] = []
        for row in self.rows:
            first = firsts.setdefault((row.benchmark, row.part), row.median)
            total = totals.get((row.benchmark, row.setting))
            speed = row.gflop / row.median if row.gflop and row.median else None
            peak = self.machine.get(f"gflops_{row.dtype}")
            traffic = row.gigabytes / row.median if row.gigabytes and row.median else None
            copy = self.machine.get("copy_gb_per_second")
            lines.append(
                (
                    *row.key,
                    f"{1000 * row.median:.1f}",
                    f"{1000 * row.spread:.1f}",
                    f"{row.median / total:.0%}" if total else "",
                    f"{speed:.0f}" if speed else "",
                    f"{speed / peak:.0%}" if speed and peak else "",
                    f"{traffic:.1f}" if traffic else "",
                    f"{traffic / copy:.0%}" if traffic and copy else "",
                    f"{first / row.median:.2f} x" if row.median else "",
                )
            )
        return lines

    @property
    def headline(self) -> str:
        """The machine in a line."""
        m = self.machine
        return (
            f"{m['device']}, {m['num_cores']} cores, {m['num_threads']} threads, torch {m['torch']}; measured peaks: "
            f"{m['gflops_fp32']:.0f} GFLOP/s in float32, {m['gflops_bf16']:.0f} in bfloat16, "
            f"copy {m['copy_gb_per_second']:.1f} GB/s"
        )

    def markdown(self) -> str:
        """A table to paste."""
        rule = ["---", "---", "---", *["---:"] * (len(COLUMNS) - 3)]
        lines = [self.headline, "", *(f"| {' | '.join(cells)} |" for cells in (COLUMNS, tuple(rule), *self.cells()))]
        return "\n".join(lines) + "\n"

    def show(self) -> None:
        """Print the table."""
        table = Table(box=SIMPLE_HEAD, title=self.headline, title_justify="left")
        for i, column in enumerate(COLUMNS):
            table.add_column(column, justify="left" if i < 3 else "right", no_wrap=True)
        for cells in self.cells():
            table.add_row(*cells, style="bold" if cells[2] == TOTAL else None)
        console = Console()
        if not console.is_terminal:  # into a file, at the width that it takes
            console = Console(width=160)
        console.print(table)

    def write_json(self, path: Path) -> None:
        """All samples, to read back with `read`."""
        write_bytes_atomic(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report of a file.

        Raises:
            UserError: it cannot be read or is not a report.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["machine"], [Row(**row) for row in content["rows"]])
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a report: --json FILE of experiments.benchmark writes one") from error
