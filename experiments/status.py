"""python -m experiments.status: the progress of a sweep, from another terminal; reads only, holds nothing up."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.runs import NewerSchemaError, Run, RunError
from experiments.cli import run_cli
from experiments.run_lock import LOCK
from experiments.summary import percent
from sparse_rcnn.errors import UserError

UNREADABLE = "unreadable"
STYLES = {
    "finished": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "dead": "red", "silent": "yellow",
    "created": "dim", UNREADABLE: "yellow",
}  # fmt: skip
DEAD_AFTER = 60.0  # seconds without an update; the lock decides, this only spares runs that start or stop now
SILENT_AFTER = 600.0  # seconds; an evaluation writes no status, and may be long
TAIL_BYTES = 64 * 1024
RATE_EVENTS = 20
MAX_NOTES = 5
PIPE_WIDTH = 1000  # no cell is cut in a file or pipe


@dataclass
class RunStatus:
    """One run as it is now. Times are in seconds, AP is a fraction; None is what cannot be known."""

    path: str
    run_id: str
    experiment: str | None
    seed: int | None
    recipe: str | None
    state: str
    step: int | None
    num_steps: int | None
    epoch: float | None
    ap: float | None
    images_per_second: float | None
    eta: float | None
    age: float | None
    host: str | None
    device: str | None
    error: str | None


@dataclass
class Sweep:
    """The runs under some roots, the folders that are none, and those that a newer program wrote."""

    runs: list[RunStatus] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)


def main() -> None:
    """Parse the command line and show the table once, or until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m experiments.status", description=__doc__)
    parser.add_argument("runs_root", nargs="*", default=["runs"], help="folders of runs (default: runs)")
    parser.add_argument("--state", help=f"only runs in these states, with commas: {', '.join(STYLES)}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--watch", type=float, metavar="SECONDS", help="refresh until Ctrl-C")
    form.add_argument("--json", action="store_true", help="print one JSON object and no table")
    arguments = parser.parse_args()
    if arguments.watch is not None and not 0 < arguments.watch < math.inf:
        parser.error("--watch must be a positive number of seconds")
    run_cli(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    states = _parse_states(arguments.state)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    if arguments.json:
        print(json.dumps(_as_json(read_sweep(arguments.runs_root), states), indent=2))
    elif arguments.watch is None:
        console.print(render(read_sweep(arguments.runs_root), states, arguments.runs_root))
    else:
        _watch(arguments, states, console)


def _watch(arguments: argparse.Namespace, states: set[str] | None, console: Console) -> None:
    def show() -> Group:
        rows = max(3, console.height - MAX_NOTES - 8) if console.is_terminal else None
        return render(read_sweep(arguments.runs_root), states, arguments.runs_root, rows)

    # The first one outside: an absent folder is told before the screen is touched.
    with contextlib.suppress(KeyboardInterrupt), Live(show(), console=console, auto_refresh=False) as live:
        while True:
            live.refresh()
            time.sleep(arguments.watch)
            live.update(show())


def _parse_states(text: str | None) -> set[str] | None:
    if text is None:
        return None
    states = {name.strip() for name in text.split(",") if name.strip()}
    wrong = ", ".join(sorted(states - set(STYLES)))
    if wrong or not states:
        raise UserError(f"--state: there is no state {wrong or text!r} (states: {', '.join(STYLES)})")
    return states


def render(sweep: Sweep, states: set[str] | None, roots: Sequence[str], rows: int | None = None) -> Group:
    """The table, the errors and the summary.

    Args:
        states: show only these; all are counted.
        roots: named where there is no run under them.
        rows: the most that fit; finished runs are left out first.
    """
    chosen = [run for run in sweep.runs if states is None or run.state in states]
    first = sorted(chosen, key=lambda run: (run.state == "finished", run.state != "running"))[:rows]
    shown = [run for run in chosen if run in first]
    parts: list[Any] = [_table(shown)] if shown else []
    errors = [f"{run.state}: {run.experiment} seed {run.seed}: {run.error}" for run in chosen if run.error]
    parts += [Text(error, "red") for error in errors[: None if rows is None else MAX_NOTES]]
    if len(shown) < len(chosen):
        parts.append(Text(f"and {len(chosen) - len(shown)} more runs: see --state, or leave out --watch", "dim"))
    for paths, what in ((sweep.foreign, "no runs"), (sweep.newer, "of a newer schema, update this program")):
        if paths:
            more = f" and {len(paths) - MAX_NOTES} more" if len(paths) > MAX_NOTES else ""
            parts.append(Text(f"{what}: {', '.join(paths[:MAX_NOTES])}{more}", "dim"))
    parts.append(Text(summary(sweep.runs) if sweep.runs else f"no runs yet in {', '.join(map(str, roots))}"))
    return Group(*parts)


def summary(runs: Sequence[RunStatus]) -> str:
    """How many runs are in which state, and when the last of the running ones is through its steps."""
    counts = Counter(run.state for run in runs)
    text = f"{len(runs)} run{'s' if len(runs) > 1 else ''}: "
    text += ", ".join(f"{counts[state]} {state}" for state in {**STYLES, **counts} if counts[state])
    etas = [run.eta for run in runs if run.eta is not None]
    if etas:
        text += f"; the running ones end in {_duration(max(etas))}"
    unknown = counts["running"] - len(etas)
    return text + (f" ({unknown} without an ETA)" if etas and unknown else "")


def _table(runs: Sequence[RunStatus]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in ("experiment", "seed", "recipe", "state", "epoch", "step", "AP", "img/s", "ETA", "age", "on"):
        left = name in ("experiment", "recipe", "state", "on")
        # On a narrow screen the names give way, never the numbers.
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in ("experiment", "on"))
    for run in runs:
        step, total = run.step, run.num_steps
        progress = f"{step}/{total} {100 * step / total:3.0f}%" if step is not None and total else step
        where = "/".join(str(part) for part in (run.host, run.device) if part)
        ap, epoch = _form(percent, run.ap), _form("{:.1f}".format, run.epoch)
        speed = _form("{:.1f}".format, run.images_per_second)
        eta, age = _form(_duration, run.eta), _form(_age, run.age)
        cells = (run.experiment, run.seed, run.recipe, run.state, epoch, progress, ap, speed, eta, age, where)
        # As Text, because markup in it is meant literally.
        row = (Text("-" if cell is None else str(cell), no_wrap=True, overflow="ellipsis") for cell in cells)
        table.add_row(*row, style=STYLES.get(run.state, "yellow"))
    return table


def _form(form: Callable[[Any], str], value: Any) -> str | None:
    return None if value is None else form(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 48 else f"{hours // 24} days"


def _age(seconds: float) -> str:
    units = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    return next((f"{seconds // size:.0f}{unit}" for size, unit in units if seconds >= size), "0s")


def _as_json(sweep: Sweep, states: set[str] | None) -> dict[str, Any]:
    runs = [asdict(run) for run in sweep.runs if states is None or run.state in states]
    counts = Counter(run.state for run in sweep.runs)
    return {"runs": runs, "counts": counts, "foreign": sweep.foreign, "newer": sweep.newer}


def read_sweep(roots: Sequence[str | Path], now: float | None = None) -> Sweep:
    """The state of all runs under `roots`; may be called while they are written, created and deleted.

    Args:
        roots: folders of runs, of one experiment, or single runs.
        now: seconds since 1970, for tests.

    Raises:
        UserError: a root is not a folder, or cannot be read.
    """
    sweep = Sweep()
    seen = set()
    for path in (path for root in roots for path in _candidates(Path(root))):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            sweep.runs.append(read_status(Run(path), time.time() if now is None else now))
        except NewerSchemaError:
            sweep.newer.append(str(path))
        except (RunError, OSError):
            if os.path.isdir(path):  # else it vanished since it was listed
                sweep.foreign.append(str(path))
    return sweep


def read_status(run: Run, now: float) -> RunStatus:
    """What a run directory says of its progress; `now` in seconds since 1970.

    Raises:
        RunError: it vanished in between.
    """
    meta, problem = run.meta, None
    status: dict[str, Any] = {}
    results: dict[str, Any] | None = None
    try:
        status, results = run.status, run.results
    except (RunError, OSError) as error:
        if not os.path.isdir(run.path):
            raise RunError(f"{run.path} vanished") from error
        problem = str(error)
    # What a resume, perhaps on another machine, does not say stands where the run was created.
    resumes = [item for item in meta.get("resumes") or [] if isinstance(item, dict)]
    origin = {**meta, **{key: value for item in resumes for key, value in item.items() if value is not None}}
    events = read_tail(run.path / "metrics.jsonl")
    # Of this process only: before a resume the speed is another one's, and the pause is no progress.
    resumed_at = _seconds(origin.get("resumed_at")) or 0.0
    train = [event for event in events if event["event"] == "train" and event["time"] >= resumed_at]
    step = _largest(_number(status.get("step")), *(event["step"] for event in train))
    num_steps = _number(status.get("num_steps"))
    updated = _largest(
        _seconds(status.get("updated_at")), _seconds(origin.get("created_at")), *(event["time"] for event in events)
    )
    age = None if updated is None else max(0.0, now - updated)
    host = status.get("host") or origin.get("host")
    state = UNREADABLE if problem or not isinstance(status.get("state"), str) else status["state"]
    if state == "running":
        state = _running_or_gone(run.path, host, math.inf if age is None else age)
    error = problem or status.get("error") or None
    if state == "finished" and results is None:
        error = "results.json is missing"
    speeds = [_number(event["metrics"].get("train/speed/images_per_second")) for event in train[-1:]]
    return RunStatus(
        path=str(run.path),
        run_id=run.run_id,
        experiment=meta.get("experiment") or run.path.parent.name,
        seed=meta.get("seed"),
        recipe=origin.get("recipe"),
        state=state,
        step=step,
        num_steps=num_steps,
        epoch=_largest(_number(status.get("epoch")), *(_number(event.get("epoch")) for event in train)),
        ap=_last_ap(run.path, results, events),
        images_per_second=_largest(*speeds),
        eta=_eta(train, step, num_steps) if state == "running" else None,
        age=age,
        host=host,
        device=origin.get("device"),
        error=next(iter(str(error).splitlines()), None) if error else None,
    )


def read_tail(path: Path, num_bytes: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The last events of a metrics.jsonl in the order of writing; empty where there are none.

    Args:
        num_bytes: how much of the end of the file is read; the line it cuts into is left out.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
            file.seek(start)
            lines = file.read(num_bytes).split(b"\n")[start > 0 :]
    except OSError:  # not there yet, or not any more
        return []
    return [event for line in lines if (event := _parse_event(line)) is not None]


def _parse_event(line: bytes) -> dict[str, Any] | None:
    try:
        item = json.loads(line)
    except ValueError:  # torn
        return None
    valid = isinstance(item, dict) and isinstance(item.get("event"), str) and isinstance(item.get("metrics"), dict)
    return item if valid and type(item.get("step")) is int and _number(item.get("time")) is not None else None


def _eta(train: list[dict[str, Any]], step: float | None, num_steps: float | None) -> float | None:
    """Seconds to the last training step at the speed of the last events, evaluations between them included."""
    recent = train[-RATE_EVENTS:]
    if len(recent) < 2 or step is None or num_steps is None:
        return None
    steps, seconds = recent[-1]["step"] - recent[0]["step"], recent[-1]["time"] - recent[0]["time"]
    return max(0.0, num_steps - step) * seconds / steps if steps > 0 and seconds > 0 else None


def _last_ap(path: Path, results: dict[str, Any] | None, events: list[dict[str, Any]]) -> float | None:
    metrics = results or next((event["metrics"] for event in reversed(events) if event["event"] == "eval"), None)
    if metrics is None:  # longer ago than the tail
        with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
            newest = sorted((path / "eval").glob("step_*.json"), key=lambda file: (len(file.name), file.name))[-1]
            metrics = json.loads(newest.read_bytes()).get("metrics")
    return _number(metrics.get("val/bbox/AP")) if isinstance(metrics, dict) else None


def _running_or_gone(path: Path, host: Any, age: float) -> str:
    held = _is_held(path) if host == socket.gethostname() and age > DEAD_AFTER else None
    if held is False:
        return "dead"
    return "silent" if held is None and age > SILENT_AFTER else "running"


def _is_held(path: Path) -> bool | None:
    """Whether a process of this host trains the run; None where that cannot be found out.

    Not `run_lock.is_locked`, which opens the lock for writing and takes a run of a read-only folder for free. A shared
    lock needs no write access and does not disturb other readers. Whoever restarts the run in this very moment
    finds the holder dead and tries again (`run_lock.DEAD_HOLDER_PATIENCE`).
    """
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except FileNotFoundError:  # each holder leaves it behind
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without flock
        return None
    else:
        return False
    finally:
        os.close(descriptor)


def _candidates(root: Path) -> Iterator[Path]:
    """The places of runs under a root: itself, its folders with meta.json, and the folders in its other folders."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {problem}; give the runs_root of the sweep as argument")
    try:
        folders = [root] if (root / "meta.json").is_file() else _folders(root)
    except OSError as error:
        raise UserError(f"{root}: cannot be read: {error.strerror}") from error
    for folder in folders:
        try:
            yield from [folder] if (folder / "meta.json").is_file() else _folders(folder)
        except OSError:  # vanished, or someone else's
            if folder.is_dir():
                yield folder


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _seconds(text: Any) -> float | None:
    """Seconds since 1970 of a time as the run directory writes it."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


if __name__ == "__main__":
    main()
