"""A real two-node Slurm cluster on this host, which ends with its owner: `python tests/cluster/lab.py COMMAND …`.

Every daemon, job step and task runs in one PID namespace whose first process is this script. When its standard input
closes, because the owner has ended for any reason, it exits and the kernel kills everything left in the namespace. Each
node has its own host name and /etc/hosts in its own namespaces. All daemons listen on free loopback ports, and all
files are in one temporary folder, so an installed Slurm or another lab is not affected. Needs root and Linux.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare")
PACKAGES = "munge slurmctld slurmd slurm-client"
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

# cred_expire: how long a requeued job waits (default two minutes). SlurmdTimeout: how long a node may not respond.
# preempt_send_user_signal: a preempted job receives its --signal first, then has GraceTime to write a checkpoint.
# FirstJobId: ports of training runs are derived from job ids, and another lab may run on this host.
# Nodes claim four CPUs without binding, so that the lab runs on a single one.
_CONFIG = """\
ClusterName=climaxlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={first_job}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdTimeout=20
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
"""
_PARTITIONS = """\
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=10
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=1 GraceTime=120
"""


def unavailable() -> str | None:
    """Reason why a lab cannot run here, and the fix; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm lab needs root on Linux (namespaces, host names)"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_SEARCH)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install {PACKAGES}"
    spaces = subprocess.run(["unshare", "--fork", "--pid", "--mount-proc", "--uts", "true"], capture_output=True)
    return None if spaces.returncode == 0 else "this machine does not allow PID, mount and UTS namespaces"


class Lab:
    """A running cluster, as a context manager; with `environment` the Slurm commands find it."""

    def __init__(self, nodes: Sequence[str] = NODES) -> None:
        self.nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix="climaxlab-"))
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Lab":
        serve = [sys.executable, os.path.abspath(__file__), "--serve", str(self.folder), *self.nodes]
        self._server = subprocess.Popen(
            ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", *serve],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment | {"PATH": _SEARCH},
        )
        try:
            self._ask("")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        assert self._server.stdin
        self._server.stdin.close()
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_node(self, node: str) -> None:
        """Start the daemon of a lost node, as after a reboot."""
        self._ask(node)

    def processes_of(self, node: str) -> list[int]:
        """All processes on a node including its daemon: they share the UTS namespace of the node.

        Another lab on this host may have a node of the same name.
        """
        spaces = {pid: _uts_namespace(pid) for pid in _all_pids()}
        own = f"SLURM_CONF={self.environment['SLURM_CONF']}"
        commands = {pid: _words(pid, "cmdline") for pid in spaces}
        daemons = [pid for pid, words in commands.items() if words[:1] == ["slurmd"] and node in words]
        daemons = [pid for pid in daemons if own in _words(pid, "environ")]
        return [pid for pid, space in spaces.items() if space and space in {spaces[d] for d in daemons}]

    def log(self, name: str = "slurmctld") -> str:
        """The end of a daemon's log."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-4000:] if path.is_file() else f"(no {path})"

    def _ask(self, request: str) -> None:
        assert self._server
        assert self._server.stdin
        assert self._server.stdout
        if request:
            self._server.stdin.write(request + "\n")
            self._server.stdin.flush()
        answer = self._server.stdout.readline().strip()
        if answer != "ready":
            raise RuntimeError(f"the Slurm lab did not start: {answer or 'its server ended'}\n{self.log()}")


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _uts_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:
        return ""


def _words(pid: int, name: str) -> list[str]:
    """What a process has in /proc as words that end with NUL: cmdline or environ."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _serve(folder: Path, nodes: Sequence[str]) -> None:
    """The first process of the namespace: start the daemons, then restart nodes on request until stdin closes."""
    signal.signal(signal.SIGCHLD, _reap)
    _configure(folder, nodes)
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    options = [f"--{key}={folder}/{name}" for key, name in (files | {"log-file": "munged.log"}).items()]
    _start(["munged", "--foreground", *options])
    _wait(lambda: (folder / "munge.socket").exists(), "munged")
    _start(["slurmctld", "-D", "-c"])
    for node in nodes:
        _start_node(folder, node)
    _wait(lambda: _count("idle") == len(nodes), "both nodes idle")
    print("ready", flush=True)
    for line in sys.stdin:
        _start_node(folder, line.strip())
        _wait(lambda: _count("idle,mixed,allocated,completing") == len(nodes), "the node's return")
        print("ready", flush=True)


def _configure(folder: Path, nodes: Sequence[str]) -> None:
    folder.chmod(0o755)  # munged refuses a key or socket below a folder that others can write to
    for name in ("state", *(f"spool.{node}" for node in nodes)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    text = _CONFIG.format(
        host=socket.gethostname().split(".")[0],
        folder=folder,
        port=_free_port(),
        first_job=1 + secrets.randbelow(900_000),
    )
    for node in nodes:
        text += f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={node} Port={_free_port()} CPUs=4 CoresPerSocket=4 "
        text += "RealMemory=64000 State=UNKNOWN\n"
    (folder / "slurm.conf").write_text(text + _PARTITIONS)
    hosts = [line for line in Path("/etc/hosts").read_text().splitlines() if line.strip()]
    (folder / "hosts").write_text("\n".join([*hosts, *(f"127.0.0.1 {node}" for node in nodes)]) + "\n")


def _start_node(folder: Path, node: str) -> None:
    """slurmd in its own UTS and mount namespaces: `hostname` returns the node's name, and node names resolve."""
    script = 'mount --bind "$1/hosts" /etc/hosts && hostname "$2" && exec slurmd -D -N "$2"'
    _start(["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script, "sh", str(folder), node])


def _start(command: list[str]) -> None:
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _reap(*_: object) -> None:
    """Reap ended processes: orphans of the whole namespace become children of its first process."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _count(states: str) -> int:
    try:
        read, write = os.pipe()
        # Not subprocess.run: the reaper may collect the child before it.
        os.posix_spawn(
            shutil.which("sinfo") or "sinfo",
            ["sinfo", "-h", "-N", "-p", "normal", "-t", states, "-o", "%N"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)],
        )
        os.close(write)
        with os.fdopen(read) as output:
            return len(set(output.read().split()))
    except OSError:
        return 0


def _wait(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            print(f"waited {seconds:.0f} s for {what}", flush=True)
            sys.exit(1)
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: list[str]) -> int:
    """Serve, or run a command inside a lab."""
    if arguments[:1] == ["--serve"]:
        try:
            _serve(Path(arguments[1]), arguments[2:])
        finally:
            shutil.rmtree(arguments[1], ignore_errors=True)
        return 0
    reason = unavailable() if arguments else "usage: lab.py COMMAND …"
    if reason:
        print(f"lab.py: {reason}", file=sys.stderr)
        return 2
    with Lab() as lab:
        return subprocess.run(arguments, env=os.environ | lab.environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
