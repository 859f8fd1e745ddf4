"""The content of the page, kept up to date: reads again only the runs whose files have changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from analysis.dashboard.collect import collect, state_now
from analysis.dashboard.page import fixed_size, script_json
from analysis.dashboard.record import RunRecord, read_record
from analysis.dashboard.signature import Signature, signature
from analysis.dashboard.views import collect_views
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.find import find_places

BUDGET_STEP = 2**16  # bytes


@dataclass(frozen=True)
class PageContent:
    """Data and views as JSON that may stand in a script element; each holds its `version`, a hash of the rest."""

    data: str
    data_version: str
    views: str
    views_version: str

    def is_as(self, other: PageContent) -> bool:
        """Whether both are equal, whenever they were read."""
        return (self.data_version, self.views_version) == (other.data_version, other.views_version)


class WatchedRuns:
    """The runs under a root.

    Args:
        root: where they lie.
        max_bytes: the most that a page with them should take.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.num_runs = 0
        self._records: dict[Path, tuple[Signature, RunRecord]] = {}
        # What the last content was made from: where nothing has changed, looking again costs next to nothing.
        self._seen: object = None
        self._views_seen: object = None
        self._content = PageContent("", "", "", "")

    def read(self) -> PageContent:
        """The content as it is now.

        Raises:
            UserError: the root cannot be read.
        """
        now = time.time()
        self._records = {path: self._record(path) for path in _places(self.root)}
        records = [record for _, record in self._records.values()]
        self.num_runs = sum(record.row["is_run"] for record in records)
        seen = [(path, files, state_now(record, now)) for path, (files, record) in self._records.items()]
        if seen != self._seen:
            data, data_version = _versioned(collect(records, str(self.root), now))
            self._content = PageContent(data, data_version, *self._views(records, len(data)))
            self._seen = seen
        return self._content

    def _views(self, records: Sequence[RunRecord], data_size: int) -> tuple[str, str]:
        # In coarse steps, so that a log that grows by a line does not make all views anew.
        budget = self.max_bytes - fixed_size() - (data_size // BUDGET_STEP + 1) * BUDGET_STEP
        views = {record.row["key"]: record.views for record in records if record.views}
        seen = (budget, [(key, [view.key for view in items]) for key, items in views.items()])
        if seen != self._views_seen:
            self._views_seen = seen
            return _versioned(collect_views(views, budget))
        return self._content.views, self._content.views_version

    def read_or_refuse(self) -> PageContent:
        """The content as it is now.

        Raises:
            UserError: the folder holds no run.
        """
        content = self.read()
        if not self.num_runs:
            raise UserError(
                f"there is no run under {self.root}: runs lie in <runs_root>/<experiment>/<run id>/ with a meta.json; "
                "give the runs_root of your training as --runs"
            )
        return content

    def _record(self, path: Path) -> tuple[Signature, RunRecord]:
        files = signature(path)
        known = self._records.get(path)
        # A folder that changes while it is read has another signature at the next look, and is read again.
        return known if known is not None and known[0] == files else (files, read_record(path, self.root))


def _places(root: Path) -> list[Path]:
    places = find_places(root)
    return sorted([*places.runs, *places.foreign])


def _versioned(content: dict[str, Any]) -> tuple[str, str]:
    text = script_json(content)
    version = hashlib.sha1(text.encode()).hexdigest()[:16]
    head = script_json({"version": version, "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds")})
    return f"{head[:-1]},{text[1:]}", version
