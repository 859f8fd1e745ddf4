"""A real SLURM on this machine for the tests: two virtual nodes with fake GPUs, under a folder of its own.

Needs root and Debian's slurm-wlm and munge. Everything it starts it stops; it leaves lines for its nodes in /etc/hosts.
There is no accounting, so ``sacct`` does not work on it: the launcher has to do without.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

NODES = ("n1", "n2")
NUM_CPUS, NUM_GPUS, MEMORY_MB = 4, 2, 16000
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol")


def reason_against() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"SLURM is not installed here: {', '.join(missing)} not found (Debian: slurm-wlm munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons need root to start jobs here"


class MiniSlurm:
    """A cluster under ``folder``, whose path has to be short: unix sockets allow 107 characters.

    Args:
        folder: of all its files.
        settings: more lines of ``slurm.conf``.
    """

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder, self.settings = folder, settings
        self.config = folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._slurmd: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that talks to this cluster; not a job of another one."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
        return {**kept, "SLURM_CONF": str(self.config), "PATH": _path()}

    def start(self) -> None:
        """Start munge, the controller and the nodes, and wait until both nodes are idle."""
        for name in ("state", "log", "munge", "dev", *[f"spool.{node}" for node in NODES]):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (self.folder / "munge").chmod(0o755)
        _make_resolvable(NODES)
        for index in range(NUM_GPUS):  # a count without a device file leaves a node invalid
            os.mknod(self.folder / "dev" / f"nvidia{index}", 0o666 | 0o020000, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/dev/nvidia[0-{NUM_GPUS - 1}]\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.config.write_text(self._settings())
        munge = self.folder / "munge"
        self._spawn(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/sock",
            f"--pid-file={munge}/pid", f"--log-file={self.folder}/log/munged.log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        _wait(lambda: (munge / "sock").exists(), "munged has no socket")
        self._spawn("slurmctld", "-D", "-f", str(self.config))
        for node in NODES:
            self.start_node(node)
        _wait(lambda: self.idle_nodes() == len(NODES), f"the nodes are not idle; see {self.folder}/log")

    def start_node(self, node: str) -> None:
        self._slurmd[node] = self._spawn("slurmd", "-D", "-N", node, "-f", str(self.config))

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon, and every job of the cluster before it can report: the machine is gone."""
        self._slurmd[node].kill()
        self._slurmd[node].wait()
        steps = [pid for pid in _processes_naming(str(self.folder)) if _name(pid) == "slurmstepd"]
        family = [*steps, *(pid for step in steps for pid in _descendants(step))]  # listed while the parents live
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def idle_nodes(self) -> int:
        answer = self.call("sinfo", "--noheader", "--states=idle", "--format=%D").strip()
        return sum(map(int, answer.split())) if answer else 0

    def call(self, *command: str) -> str:
        """The output of one of SLURM's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout

    def stop(self) -> None:
        """Cancel all jobs and end all daemons."""
        with suppress(subprocess.TimeoutExpired):
            self.call("scancel", "--user=root", "--signal=KILL")
            self.call("scancel", "--user=root")
        for daemon in reversed(self._daemons):
            if daemon.poll() is None:
                daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for pid in _processes_naming(str(self.folder)):  # steps of a killed node
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log" / "daemons.log").open("ab") as log:
            daemon = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._daemons.append(daemon)
        return daemon

    def _settings(self) -> str:
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={NUM_CPUS} "
            f"RealMemory={MEMORY_MB} Gres=gpu:{NUM_GPUS} State=UNKNOWN"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        # Requeued jobs would wait for the life of a credential; a lost node for SlurmdTimeout.
        return f"""\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge/sock,cred_expire=5
CredType=cred/munge
MpiDefault=none
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool.%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.%n.pid
SlurmctldLogFile={self.folder}/log/slurmctld.log
SlurmdLogFile={self.folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=10
ReturnToService=2
KillWait=5
MinJobAge=600
JobRequeue=1
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
{self.settings}
"""


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _make_resolvable(names: tuple[str, ...]) -> None:
    for name in names:
        try:
            socket.gethostbyname(name)
        except OSError:
            with open("/etc/hosts", "a") as hosts:
                hosts.write(f"127.0.0.1 {name} # sparse_rcnn tests\n")


def _wait(condition: object, message: str, seconds: float = 30) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(message)
        time.sleep(0.1)


def _processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if text.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found
