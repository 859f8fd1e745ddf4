"""Writing a run directory: created once, found again, locked, replaced file by file."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import RunError, UserError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.changes import changes, flatten, texts
from sparse_rcnn.rundir.digests import write_digests
from sparse_rcnn.rundir.file_digest import file_digest
from sparse_rcnn.rundir.identity import identity_config
from sparse_rcnn.rundir.json_files import reason, write_json_atomic, write_sealed_json
from sparse_rcnn.rundir.lock import lock_run
from sparse_rcnn.rundir.provenance import now, provenance
from sparse_rcnn.rundir.reader import Run, set_aside_in

# What a creation cut short before meta.json may have left behind.
_BEGINNINGS = (layout.CONFIG, layout.OVERRIDES, layout.EXPERIMENTS, layout.LOCK, layout.LOCK_HOLDER)


@dataclass(frozen=True)
class RunDescription:
    """A run that is asked for, with all that its directory records at creation.

    Attributes:
        experiment: that it is started as; names the folder of a new run.
        identity, seed: name the run.
        config: resolved plain configuration.
        overrides: as given on the command line.
        experiments: the rows that it is, by name, with what overrides changed of each.
        about: more keys of meta.json: recipe, device, world_size, data.
    """

    experiment: str
    identity: str
    seed: int
    config: Mapping[str, Any]
    overrides: Sequence[str]
    experiments: Mapping[str, Sequence[str] | None]
    about: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """`<identity>-seed<k>`."""
        return layout.run_id(self.identity, self.seed)


class RunDirectory(Run):
    """The directory of one run (one identity and seed), to write: created or reopened by `RunDirectory.open`.

    Attributes:
        path: `runs_root/<experiment>/<identity>-seed<k>`.
        created: whether this object created it.
    """

    def __init__(self, path: str | Path, created: bool = False) -> None:
        super().__init__(path)
        self.created = created
        if not {"identity", "seed"} <= set(self.meta):
            raise RunError(f"{self.path} is not a run directory of this program: see its {layout.META}")

    @staticmethod
    def find(runs_root: str | Path, identity: str, seed: int) -> Path | None:
        """This run's directory under any experiment, a finished one first: equal configs are one run."""
        found = [path.parent for path in Path(runs_root).glob(f"*/{layout.run_id(identity, seed)}/{layout.META}")]
        return min(found, key=lambda path: (not _is_finished(path), path), default=None)

    @classmethod
    def open(cls, runs_root: str | Path, described: RunDescription) -> RunDirectory:
        """The directory of a run under ``runs_root``: the one that exists under any experiment, or a new one.

        Raises:
            UserError: `runs_root` cannot be written; the directory holds something else or another identity.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", described.experiment):
            raise UserError(f"experiment_name={described.experiment}: letters, digits and ._- only, it names a folder")
        root = Path(runs_root)
        with _naming(f"runs_root={runs_root}"):
            root.mkdir(parents=True, exist_ok=True)
            # One creation at a time: else two processes could create one run under two experiments.
            with FileLock(root / layout.ROOT_LOCK, timeout=60):
                found = cls.find(root, described.identity, described.seed)
                path = found or root / described.experiment / described.run_id
                if not (path / layout.META).exists():
                    _create(path, described)
                    return cls(path, created=True)
        directory = cls(path)
        _refuse_other_run(directory, described)
        directory.add_experiments(described.experiments)
        return directory

    def add_experiments(self, experiments: Mapping[str, Sequence[str] | None]) -> bool:
        """Add rows to those recorded; returns whether the file changed."""
        return self.replace_experiments(lambda known: {**known, **experiments})

    def replace_experiments(
        self, change: Callable[[Mapping[str, Sequence[str] | None]], Mapping[str, Sequence[str] | None]]
    ) -> bool:
        """Replace the recorded rows; returns whether the file changed.

        Rows that the run equals displace those that it was only started as, with other values. No lock is needed.

        Args:
            change: from the rows recorded to the new ones: by name what overrides changed of each, an empty list for
                one that the run equals, None where there is no row of that name to compare with.
        """
        with _naming(str(self.path)), FileLock(self.path.parents[1] / layout.ROOT_LOCK, timeout=60):
            known = self.recorded_experiments
            changed = {name: None if lines is None else list(lines) for name, lines in change(known).items()}
            if any(lines == [] for lines in changed.values()):
                changed = {name: lines for name, lines in changed.items() if not lines}
            if changed == known:
                return False
            self.write_json(layout.EXPERIMENTS, changed)
            return True

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the run for this process: whoever trains or writes it does so inside (see `lock_run`).

        Args:
            wait: be patient with another process that holds it.

        Raises:
            UserError: another process holds it; says which.
        """
        with lock_run(self.path, wait):
            for pattern in (".*.tmp", f"{layout.EVALUATIONS}/.*.tmp"):  # of writers that were killed
                for leftover in self.path.glob(pattern):
                    leftover.unlink(missing_ok=True)
            yield

    def record_resume(self, overrides: Sequence[str], meta_extra: Mapping[str, Any]) -> None:
        """Note under `resumes` in meta.json that the run goes on in this process, with its own provenance."""
        resume = {"resumed_at": now(), "overrides": list(overrides), **provenance(), **meta_extra}
        self.meta = {**self.meta, "resumes": [*self.meta.get("resumes", []), resume]}
        self.write_json(layout.META, self.meta)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a file of the run atomically and return its path; `name` may hold a subfolder."""
        path = self.path / name
        write_json_atomic(path, value)
        return path

    def write_sealed_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write a JSON object of the run with its digest, as `write_json` does."""
        path = self.path / name
        write_sealed_json(path, value)
        return path

    def write_evaluation(self, step: int, value: Mapping[str, Any]) -> Path:
        """Write the evaluation after `step` training steps, with its digest."""
        return self.write_sealed_json(layout.evaluation_file(step), value)

    def write_results(self, results: Mapping[str, Any]) -> Path:
        """Write the digests of what a finished run keeps (`layout.DIGESTED`), then its final numbers with theirs."""
        paths = {name: self.path / name for name in layout.DIGESTED}
        with _naming(str(self.path)):
            write_digests(self.path, {name: file_digest(path) for name, path in paths.items() if path.is_file()})
        return self.write_sealed_json(layout.RESULTS, results)

    def set_status(self, state: str, error: str | None = None, **progress: Any) -> None:
        """Write status.json.

        Args:
            state: one of `layout.STATES`.
            error: the one-line message where the state is failed.
            progress: step, num_steps, epoch; one that is not given keeps its value.
        """
        assert state in layout.STATES, state
        unknown = set(progress) - {"step", "num_steps", "epoch"}
        assert not unknown, unknown
        before = self._status_before()
        kept = {key: before.get(key) for key in ("step", "num_steps", "epoch", "started_at")}
        kept |= {key: before[key] for key in (layout.SET_ASIDE,) if key in before}
        status = {**kept, **progress, "state": state, "error": error, "updated_at": now()}
        status |= {"pid": os.getpid(), "host": socket.gethostname()}
        status["started_at"] = status["started_at"] or status["updated_at"]
        self.write_json(layout.STATUS, status)

    def record_set_aside(self, checkpoint: str, problem: str) -> None:
        """Note in status.json, for all time, that a damaged checkpoint is set aside.

        Args:
            checkpoint: the name that it has from now on.
            problem: what is wrong with it.
        """
        before = self._status_before()
        others = [item for item in set_aside_in(before) if item["checkpoint"] != checkpoint]
        new = {"checkpoint": checkpoint, "problem": problem, "at": now()}
        self.write_json(layout.STATUS, {**before, layout.SET_ASIDE: [*others, new]})

    def _status_before(self) -> dict[str, Any]:
        try:
            return self.status
        except UserError:  # a damaged status is replaced
            return {}


def config_text(config: Mapping[str, Any]) -> str:
    """The content of config.json: sorted keys, two spaces of indent, floats that read back exactly.

    Raises:
        UserError: a value is NaN or infinite, which JSON cannot hold; names the key.
    """
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}: {value} is not a finite number")
    return json.dumps(config, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _create(path: Path, described: RunDescription) -> None:
    if path.exists():
        foreign = sorted(entry.name for entry in path.iterdir() if not _is_beginning(entry.name))
        if foreign:
            raise UserError(f"{path} is not a run directory: it has no {layout.META}, but {', '.join(foreign[:5])}")
    meta = {
        "schema_version": layout.SCHEMA_VERSION,
        "run_id": described.run_id,
        "experiment": described.experiment,
        "recipe": None,
        "seed": described.seed,
        "identity": described.identity,
        "created_at": now(),
        **provenance(),
        **described.about,
        "resumes": [],
    }
    try:
        lines = "".join(f"{override}\n" for override in described.overrides)
        write_bytes_atomic(path / layout.OVERRIDES, lines.encode())
        write_bytes_atomic(path / layout.CONFIG, config_text(described.config).encode())
        write_json_atomic(path / layout.EXPERIMENTS, described.experiments)
        write_json_atomic(path / layout.META, meta)  # last: from here on it is a run directory
    except UserError:
        for name in _BEGINNINGS:
            with suppress(OSError):
                (path / name).unlink()
        with suppress(OSError):  # each only if it is empty
            path.rmdir()
            path.parent.rmdir()
        raise


def _is_beginning(name: str) -> bool:
    return name in _BEGINNINGS or (name.startswith(".") and name.endswith(".tmp"))


def _refuse_other_run(directory: RunDirectory, described: RunDescription) -> None:
    meta = directory.meta
    differences = texts(changes(identity_config(directory.config), identity_config(described.config)))
    if meta["seed"] != described.seed:
        differences.append(f"seed: {meta['seed']} -> {described.seed}")
    if meta["identity"] == described.identity and not differences:
        return
    if not differences:  # then what the config points to has changed
        stored = {key: meta.get(key) for key in described.about if key == "data"}
        asked = {key: described.about[key] for key in stored}
        differences = texts(changes(stored, asked)) or ["the content of the data or of the weights"]
    shown = ", ".join(differences[:8]) + (f" and {len(differences) - 8} more" if len(differences) > 8 else "")
    raise UserError(
        f"{directory.path} holds another run ({meta['run_id']}, asked for {described.run_id}); "
        f"it differs in {shown}; remove that directory or choose another runs_root"
    )


def _is_finished(path: Path) -> bool:
    try:
        return Run(path).is_finished
    except RunError:
        return False


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: cannot be written: {reason(error)}") from error
