"""One hook for what a person wants to know at once: a shell command that gets each event as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_rcnn.rundir.metric_keys import AP
from sparse_rcnn.rundir.writer import RunDirectory

FINISHED, FAILED, NON_FINITE, SWEEP_FINISHED = "finished", "failed", "non-finite", "sweep finished"
FOLDER = "alerts"  # of a run directory, or of a sweep's


class Alerts:
    """Starts ``alerts.command`` once for each event of a run or sweep, whatever processes and requeues come across it.

    An event is claimed by a file in ``folder`` before the command starts: what ends between the two is an alert that is
    lost, never one that comes twice. The command gets one JSON object on its standard input. Whatever becomes of it
    is a line on standard error and nothing else.

    Args:
        command: of the shell; None starts nothing.
        folder: for the claims; made with the first.
        timeout: seconds after which the command is ended.
        about: what every event has: the run's directory, its experiment, its seed ...
    """

    def __init__(self, command: str | None, folder: Path, timeout: float, about: Mapping[str, Any]) -> None:
        self._command, self._folder, self._timeout, self._about = command, folder, timeout, dict(about)

    def send(self, event: str, message: str = "", **details: Any) -> None:
        """Start the command for an event, unless the same event with the same message was sent before."""
        if self._command is None or not self._claim(event, message):
            return
        content = {
            "event": event,
            "message": message,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
            **self._about,
            **details,
        }
        if fault := self._run(json.dumps(content, allow_nan=False)):
            print(f"warning: alerts.command: {fault}; the event was {event!r}", file=sys.stderr)

    def _claim(self, event: str, message: str) -> bool:
        digest = hashlib.sha256(f"{event}\n{message}".encode()).hexdigest()[:12]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._folder / f"{event.replace(' ', '_')}-{digest}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        except OSError as error:  # no room for a claim: rather twice than never
            print(f"warning: alerts: {self._folder} cannot be written: {error.strerror}", file=sys.stderr)
        return True

    def _run(self, content: str) -> str:
        """Why the command failed, in a line; empty where it did not."""
        assert self._command is not None
        process = subprocess.Popen(
            self._command, shell=True, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = process.communicate(content, timeout=self._timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return f"not done after {self._timeout:g} seconds, and ended"
        if process.returncode == 0:
            return ""
        last = (said.strip().splitlines() or [""])[-1]
        return f"exit code {process.returncode}" + (f": {last}" if last else "")


def of_run(config: Mapping[str, Any], directory: RunDirectory) -> Alerts:
    """Those of a run, from its configuration."""
    about = {
        "run": str(directory.path.absolute()),
        "run_id": directory.run_id,
        "experiment": config["experiment_name"],
        "recipe": config["recipe_name"],
        "seed": config["seed"],
    }
    return Alerts(config["alerts"]["command"], directory.path / FOLDER, config["alerts"]["timeout"], about)


def send_finished(config: Mapping[str, Any], directory: RunDirectory) -> None:
    """The event of a run that has its results, with its AP."""
    of_run(config, directory).send(FINISHED, ap=(directory.results or {}).get(AP))


def send_sweep_finished(config: Mapping[str, Any], folder: Path, states: Sequence[str]) -> None:
    """The event of a sweep that has ended, with the number of runs in each state."""
    about = {"sweep": str(folder.absolute()), "runs_root": str(Path(config["runs_root"]).absolute())}
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    message = ", ".join(f"{count} {state}" for state, count in counts.items())
    alerts = Alerts(config["alerts"]["command"], folder / FOLDER, config["alerts"]["timeout"], about)
    alerts.send(SWEEP_FINISHED, message, states=counts)
