"""The run directory: where a run's files lie and who may write them; docs/run_directory.md describes them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.config import to_json
from experiments.identity import explain_difference, identity_config
from experiments.json_files import read_object, reason, write_json_atomic
from experiments.provenance import now, provenance
from experiments.run_lock import HOLDER, LOCK, lock_run
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import UserError

SCHEMA_VERSION = 1
STATES = ("created", "running", "finished", "interrupted", "failed")
# What a creation cut short before meta.json may have left behind.
_BEGINNINGS = ("config.json", "overrides.txt", LOCK, HOLDER)


class RunDirectory:
    """The directory of one run (one identity and seed), created or reopened by `RunDirectory.open`.

    Attributes:
        path: `runs_root/<experiment>/<identity>-seed<k>`.
        meta: the content of meta.json.
        created: whether this call created it.
    """

    def __init__(self, path: Path, meta: dict[str, Any], created: bool) -> None:
        self.path = path
        self.meta = meta
        self.created = created

    @staticmethod
    def find(runs_root: str | Path, identity: str, seed: int) -> Path | None:
        """This run's directory under any experiment, a finished one first: equal configs are one run."""
        found = [path.parent for path in Path(runs_root).glob(f"*/{run_id(identity, seed)}/meta.json")]
        return min(found, key=lambda path: (not _is_finished(path), path), default=None)

    @classmethod
    def open(
        cls,
        runs_root: str | Path,
        experiment: str,
        config: Mapping[str, Any],
        identity: str,
        seed: int,
        overrides: Sequence[str],
        meta_extra: Mapping[str, Any],
    ) -> RunDirectory:
        """The directory of this run: the one that exists under any experiment, or a new one.

        Args:
            runs_root: where runs lie.
            experiment: name of the folder that a new run goes into.
            config: resolved plain config.
            identity: of `config` (`experiments.identity.run_identity`).
            seed: with the identity, what names the run.
            overrides: as given on the command line.
            meta_extra: more keys of meta.json: recipe, device, world_size, data.

        Raises:
            UserError: `runs_root` cannot be written; the directory holds something else or another identity.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", experiment):
            raise UserError(f"experiment={experiment}: letters, digits and ._- only, it names a folder")
        root = Path(runs_root)
        with _errors_name(f"runs_root={runs_root}"):
            root.mkdir(parents=True, exist_ok=True)
            # One creation at a time: else two processes could create one run under two experiments.
            with FileLock(root / ".lock", timeout=60):
                path = cls.find(root, identity, seed) or root / experiment / run_id(identity, seed)
                if not (path / "meta.json").exists():
                    _create(path, experiment, config, identity, seed, overrides, meta_extra)
                    return cls(path, _load_meta(path), created=True)
        directory = cls.load(path)
        _refuse_other_run(directory, config, identity, seed, meta_extra)
        directory.add_name(experiment, meta_extra.get("deviations"))
        return directory

    def has_name(self, experiment: str) -> bool:
        """Whether the run is known to be this experiment."""
        return experiment == self.meta["experiment"] or (self.path / "names" / experiment).exists()

    def add_name(self, experiment: str, deviations: Sequence[str] | None) -> None:
        """Note that the run is also this experiment, but for some deviations: a file, so that no lock is needed."""
        if not self.has_name(experiment):
            with _errors_name(str(self.path / "names")):
                (self.path / "names").mkdir(exist_ok=True)
                write_json_atomic(self.path / "names" / experiment, deviations)

    @classmethod
    def load(cls, path: str | Path) -> RunDirectory:
        """An existing run directory, whatever it holds.

        Raises:
            UserError: it is none of ours, or of a newer schema.
        """
        return cls(Path(path), _load_meta(Path(path)), created=False)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config that the run was created with."""
        return read_object(self.path / "config.json")

    @property
    def is_finished(self) -> bool:
        """Whether the final results are written and the state says finished."""
        return _is_finished(self.path)

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json; empty where there is none."""
        path = self.path / "status.json"
        return read_object(path) if path.exists() else {}

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the run for this process: whoever trains or writes it does so inside (see `lock_run`).

        Args:
            wait: be patient with another process that holds it.

        Raises:
            UserError: another process holds it; says which.
        """
        with lock_run(self.path, wait):
            for pattern in (".*.tmp", "eval/.*.tmp", "names/.*.tmp", "wandb/.*.tmp"):  # of writers that were killed
                for leftover in self.path.glob(pattern):
                    leftover.unlink(missing_ok=True)
            yield

    def record_resume(self, overrides: Sequence[str], meta_extra: Mapping[str, Any]) -> None:
        """Note under `resumes` in meta.json that the run goes on in this process, with its own provenance."""
        resume = {"resumed_at": now(), "overrides": list(overrides), **provenance(), **meta_extra}
        self.meta = {**self.meta, "resumes": [*self.meta.get("resumes", []), resume]}
        self.write_json("meta.json", self.meta)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a file of the run atomically and return its path; `name` may hold a subfolder."""
        path = self.path / name
        write_json_atomic(path, value)
        return path

    def write_evaluation(self, step: int, value: Mapping[str, Any]) -> Path:
        """Write the evaluation after `step` training steps."""
        return self.write_json(f"eval/step_{step:08d}.json", value)

    def set_status(self, state: str, error: str | None = None, **progress: Any) -> None:
        """Write status.json.

        Args:
            state: one of `STATES`.
            error: the one-line message where the state is failed.
            progress: step, num_steps, epoch; one that is not given keeps its value.
        """
        assert state in STATES, state
        unknown = set(progress) - {"step", "num_steps", "epoch"}
        assert not unknown, unknown
        try:
            before = self.status
        except UserError:  # a damaged status is replaced
            before = {}
        kept = {key: before.get(key) for key in ("step", "num_steps", "epoch", "started_at")}
        status = {**kept, **progress, "state": state, "error": error, "updated_at": now()}
        status |= {"pid": os.getpid(), "host": socket.gethostname()}
        status["started_at"] = status["started_at"] or status["updated_at"]
        self.write_json("status.json", status)


def run_id(identity: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{identity}-seed{seed}"


def _create(
    path: Path,
    experiment: str,
    config: Mapping[str, Any],
    identity: str,
    seed: int,
    overrides: Sequence[str],
    meta_extra: Mapping[str, Any],
) -> None:
    if path.exists():
        foreign = sorted(entry.name for entry in path.iterdir() if not _is_beginning(entry.name))
        if foreign:
            raise UserError(f"{path} is not a run directory: it has no meta.json, but {', '.join(foreign[:5])}")
    meta = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id(identity, seed),
        "experiment": experiment,
        "recipe": None,
        "seed": seed,
        "identity": identity,
        "created_at": now(),
        **provenance(),
        **meta_extra,
        "resumes": [],
    }
    try:
        lines = "".join(f"{override}\n" for override in overrides)
        write_bytes_atomic(path / "overrides.txt", lines.encode())
        write_bytes_atomic(path / "config.json", to_json(config).encode())
        write_json_atomic(path / "meta.json", meta)  # last: from here on it is a run directory
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


def _load_meta(path: Path) -> dict[str, Any]:
    if not (path / "meta.json").is_file():
        raise UserError(f"{path} is not a run directory: it has no meta.json")
    meta = read_object(path / "meta.json")
    version = meta.get("schema_version")
    if not isinstance(version, int) or not {"run_id", "identity", "seed"} <= set(meta):
        raise UserError(f"{path} is not a run directory of this program: see its meta.json")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written with schema version {version}, this program knows up to {SCHEMA_VERSION}: "
            f"update it, or choose another runs_root"
        )
    return meta


def _refuse_other_run(
    directory: RunDirectory,
    config: Mapping[str, Any],
    identity: str,
    seed: int,
    meta_extra: Mapping[str, Any],
) -> None:
    meta = directory.meta
    differences = explain_difference(identity_config(directory.config), identity_config(config))
    if meta["seed"] != seed:
        differences.append(f"seed: {meta['seed']} -> {seed}")
    if meta["identity"] == identity and not differences:
        return
    if not differences:  # then what the config points to has changed
        stored = {key: meta.get(key) for key in meta_extra if key == "data"}
        asked = {key: meta_extra[key] for key in stored}
        differences = explain_difference(stored, asked) or ["the content of the data or of the weights"]
    shown = ", ".join(differences[:8]) + (f" and {len(differences) - 8} more" if len(differences) > 8 else "")
    raise UserError(
        f"{directory.path} holds another run ({meta['run_id']}, asked for {run_id(identity, seed)}); "
        f"it differs in {shown}; remove that directory or choose another runs_root"
    )


def _is_finished(path: Path) -> bool:
    try:
        return (path / "results.json").is_file() and read_object(path / "status.json")["state"] == "finished"
    except (UserError, KeyError):
        return False


@contextmanager
def _errors_name(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: cannot be written: {reason(error)}") from error
