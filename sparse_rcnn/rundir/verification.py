"""All files of a run against their digests; reads only, and may be called while the run is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from sparse_rcnn.errors import RunError, UserError
from sparse_rcnn.rundir import layout, own_digest
from sparse_rcnn.rundir.checkpoints import FILES as CHECKPOINT_FILES
from sparse_rcnn.rundir.checkpoints import checkpoint_path, folders_set_aside, has_digests, problem_of, steps_of
from sparse_rcnn.rundir.digests import difference, recorded_digests
from sparse_rcnn.rundir.identity import file_fingerprint
from sparse_rcnn.rundir.json_files import read_json, reason
from sparse_rcnn.rundir.reader import Run, set_aside_in

_PLAIN = (
    layout.META,
    layout.CONFIG,
    layout.STATUS,
    layout.EXPERIMENTS,
    layout.DATA,
)  # JSON without a digest of its own


@dataclass
class RunVerification:
    """What was found in a run. Faults and notes begin with the file, relative to the run.

    Attributes:
        path: of the run.
        name: the experiment to call it by, and its seed.
        state: as status.json has it.
        num_whole: files that are what was written, by their digest.
        num_without_digest: files that could only be read, of which older programs took no digest.
        num_bytes: of all of these.
        damaged_steps: of checkpoints among the faults.
        faults: what is not as it was written, or is missing.
        notes: what is worth a word and no fault, such as checkpoints that were set aside.
    """

    path: Path
    name: str = ""
    state: str = ""
    num_whole: int = 0
    num_without_digest: int = 0
    num_bytes: int = 0
    damaged_steps: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_run(path: Path) -> RunVerification:
    """Compare all files of a run that have digests with them, and read the others as far as they are JSON."""
    found = RunVerification(path)
    try:
        run = Run(path)
    except RunError as error:  # damaged, or of a newer program
        found.name, found.faults = path.name, [_shortened(path, str(error))]
        return found
    found.name = f"{run.name} seed {run.meta.get('seed')}"
    _check_plain_files(run, found)
    try:
        status = run.status
    except RunError:  # a fault already
        status = {}
    found.state = str(status.get("state"))
    for file in _sealed_files(path):
        _check_sealed(path, file, found)
    _check_end(run, found)
    _check_checkpoints(path, status, found)
    _note_lines(run, found)
    _note_data(run, found)
    return found


def _check_plain_files(run: Run, found: RunVerification) -> None:
    for name in _PLAIN:
        if (run.path / name).exists():
            try:
                read_json(run.path / name)
            except RunError as error:
                found.faults.append(_shortened(run.path, str(error)))
    if not (run.path / layout.CONFIG).exists():
        found.faults.append(f"{layout.CONFIG} is missing")


def _sealed_files(path: Path) -> list[Path]:
    files = [*(path / layout.EVALUATIONS).glob("step_*.json"), *(path / layout.VIEWS).glob("[!.]*.json")]
    return [*sorted(files), *(file for file in (path / layout.RESULTS,) if file.exists())]


def _check_sealed(root: Path, file: Path, found: RunVerification) -> None:
    """A JSON file that carries its digest where this program wrote it."""
    name = file.relative_to(root).as_posix()
    try:
        data = file.read_bytes()
        problem = own_digest.json_problem(data)
        if problem is None:
            json.loads(data)
    except OSError as error:
        problem = f"cannot be read: {reason(error)}"
    except ValueError as error:
        problem = f"is not valid JSON: {error}"
    else:
        found.num_bytes += len(data)
    if problem is not None:
        found.faults.append(f"{name} {problem}")
    elif own_digest.has_json_digest(data):
        found.num_whole += 1
    else:
        found.num_without_digest += 1


def _check_end(run: Run, found: RunVerification) -> None:
    """What a run ends with; while it comes to its end, the files and their digests may not belong together yet."""
    if found.state != layout.FINISHED:
        return
    required = (layout.RESULTS, layout.WEIGHTS, layout.DETECTIONS)
    found.faults += [f"{name} is missing" for name in required if not (run.path / name).exists()]
    try:
        listed = recorded_digests(run.path)
        if listed is None:
            _check_end_without_list(run.path, found)
            return
        for name, written in listed.items():
            if (problem := difference(run.path / name, written)) is None:
                found.num_whole += 1
                found.num_bytes += written.num_bytes
            elif f"{name} is missing" not in found.faults:
                found.faults.append(f"{name} {problem}")
    except (RunError, OSError) as error:
        found.faults.append(_shortened(run.path, str(error)))


def _check_end_without_list(path: Path, found: RunVerification) -> None:
    results, weights = path / layout.RESULTS, path / layout.WEIGHTS
    if results.exists() and own_digest.has_json_digest(results.read_bytes()):
        found.faults.append(f"{layout.DIGESTS} is missing")
    if weights.exists():
        found.num_bytes += weights.stat().st_size
        if (problem := own_digest.weights_problem(weights)) is not None:
            found.faults.append(f"{layout.WEIGHTS} {problem}")
        elif own_digest.has_weights_digest(weights):
            found.num_whole += 1
        else:
            found.num_without_digest += 1


def _check_checkpoints(path: Path, status: dict[str, object], found: RunVerification) -> None:
    folder = path / layout.CHECKPOINTS
    for step in steps_of(folder):
        checkpoint = checkpoint_path(folder, step)
        try:
            problem, size = problem_of(checkpoint), sum(file.stat().st_size for file in checkpoint.iterdir())
        except (RunError, OSError) as error:
            problem, size = _shortened(checkpoint, str(error)), 0
        if problem is None:
            found.num_bytes += size
            if has_digests(checkpoint):
                found.num_whole += len(CHECKPOINT_FILES)
            else:
                found.num_without_digest += len(CHECKPOINT_FILES)
        elif checkpoint.exists():  # else a newer one has taken its place since it was listed
            found.damaged_steps.append(step)
            found.faults.append(f"{checkpoint.relative_to(path).as_posix()}: {problem}")
    problems = {item["checkpoint"]: f": {item['problem']}" for item in set_aside_in(status)}
    for aside in folders_set_aside(folder):
        name = aside.relative_to(path).as_posix()
        found.notes.append(f"{name} is a damaged checkpoint that was set aside{problems.get(aside.name, '')}")


def _note_lines(run: Run, found: RunVerification) -> None:
    try:
        number, torn = run.num_unreadable_lines, run.has_torn_line and found.state != layout.RUNNING
    except RunError as error:
        found.faults.append(_shortened(run.path, str(error)))
        return
    if number or torn:
        lines = [f"{number} unreadable line{'s' if number > 1 else ''}"] if number else []
        lines += ["a last line that is cut off"] if torn else []
        found.notes.append(f"{layout.METRICS} has {' and '.join(lines)}, as a killed process leaves behind")


def _note_data(run: Run, found: RunVerification) -> None:
    data = run.meta.get("data")
    for split in ("train", "val"):
        recorded = data.get(split) if isinstance(data, dict) else None
        if not isinstance(recorded, dict) or not isinstance(recorded.get("annotations"), str):
            continue
        try:
            if file_fingerprint(recorded["annotations"]) != recorded.get("fingerprint"):
                found.notes.append(f"{layout.META}: {recorded['annotations']} has changed since the run began")
        except UserError:  # it lies elsewhere, or on another machine
            continue


def _shortened(path: Path, problem: str) -> str:
    return problem.removeprefix(f"{path}/")
