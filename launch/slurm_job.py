"""What `scontrol show job` says of a job: its state, its times, and the options of sbatch that a successor needs."""

import re
from collections.abc import Iterator, Mapping

_RUNNING = ("RUNNING", "SIGNALING")  # SIGNALING: a running job while Slurm delivers --signal
_UNSET = ("", "(null)", "N/A", "None", "Unknown")
# Values of these fields may contain blanks and `=`, and end with their line.
_FREE_TEXT = ("JobName", "AdminComment", "SystemComment", "Comment", "Command", "WorkDir", "StdErr", "StdIn", "StdOut")
_REST_OF_LINE = re.compile(rf"(?:^|\s)({'|'.join(_FREE_TEXT)})=(.*)$")
_FIELD = re.compile(r"(?:^|\s)([A-Z][A-Za-z/:]*)=(\S*)")

# Field -> option of sbatch that sets it.
_OPTIONS = {
    "JobName": "job-name", "Comment": "comment", "Partition": "partition", "Account": "account", "QOS": "qos",
    "WCKey": "wckey", "Nice": "nice", "Reservation": "reservation", "TimeLimit": "time", "TimeMin": "time-min",
    "Features": "constraint", "Licenses": "licenses", "Network": "network", "ExcNodeList": "exclude",
    "ReqNodeList": "nodelist", "CoreSpec": "core-spec", "Switches": "switches", "MailUser": "mail-user",
    "MailType": "mail-type", "MinMemoryNode": "mem", "MinMemoryCPU": "mem-per-cpu", "MinTmpDiskNode": "tmp",
    "WorkDir": "chdir", "StdIn": "input",
}  # fmt: skip
# Variable of a batch job -> option: what `scontrol` shows only in part.
_LAYOUT = {
    "SLURM_JOB_NUM_NODES": "nodes", "SLURM_NTASKS": "ntasks", "SLURM_NTASKS_PER_NODE": "ntasks-per-node",
    "SLURM_NTASKS_PER_CORE": "ntasks-per-core", "SLURM_NTASKS_PER_SOCKET": "ntasks-per-socket",
    "SLURM_NTASKS_PER_GPU": "ntasks-per-gpu", "SLURM_CPUS_PER_TASK": "cpus-per-task",
    "SLURM_CPUS_PER_GPU": "cpus-per-gpu", "SLURM_GPUS": "gpus", "SLURM_GPUS_PER_NODE": "gpus-per-node",
    "SLURM_GPUS_PER_TASK": "gpus-per-task", "SLURM_GPUS_PER_SOCKET": "gpus-per-socket",
    "SLURM_MEM_PER_GPU": "mem-per-gpu", "SLURM_HINT": "hint", "SLURM_THREADS_PER_CORE": "threads-per-core",
    "SLURM_ARRAY_TASK_ID": "array",
}  # fmt: skip
_WARNING_DELAY_SECONDS = 32  # Slurm looks every 30 s which jobs to warn, and warns before rather than after --signal


def fields_of(text: str) -> dict[str, str]:
    """The fields of one job in the output of `scontrol show job`; those without a value are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        rest = _REST_OF_LINE.search(line)
        found |= dict(_FIELD.findall(line[: rest.start()] if rest else line))
        if rest:
            found[rest[1]] = rest[2].strip()
    return {name: value for name, value in found.items() if value not in _UNSET and value[0] != "*"}  # *: a default


def seconds(text: str) -> float | None:
    """A duration as Slurm writes it, `1-02:03:04` or `3:04` [s]; None if it is unlimited or unknown."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def is_running(fields: Mapping[str, str]) -> bool:
    """True for a job that may requeue itself; False for one that was cancelled, or that Slurm is requeueing."""
    return fields.get("JobState") in _RUNNING


def is_preempted(fields: Mapping[str, str]) -> bool:
    """True for a job that has to make way for another."""
    return "PreemptTime" in fields


def successor_options(
    fields: Mapping[str, str], environment: Mapping[str, str], *, script: str, left: float | None = None
) -> Iterator[str]:
    """Options of sbatch for a job that continues this one, in the same place and with the same resources.

    Args:
        fields: of this job.
        environment: of this job.
        script: text of its batch script.
        left: time that was left when Slurm warned of the time limit [s].
    """
    if environment.get("SLURM_MEM_PER_GPU"):  # sbatch takes only one way to state the memory
        fields = {name: value for name, value in fields.items() if not name.startswith("MinMemory")}
    for names, values in ((_OPTIONS, fields), (_LAYOUT, environment)):
        yield from (f"--{option}={values[name]}" for name, option in names.items() if values.get(name))
    for name, option in (("StdOut", "output"), ("StdErr", "error")):
        if name in fields:
            yield f"--{option}={_with_patterns(fields[name], fields)}"
    if "TresPerNode" in fields and not environment.get("SLURM_GPUS_PER_NODE"):
        yield "--gres=" + re.sub(r"\bgres[:/]", "", fields["TresPerNode"])
    if fields.get("OverSubscribe") in ("NO", "USER", "MCS"):
        yield "--exclusive" + {"NO": "", "USER": "=user", "MCS": "=mcs"}[fields["OverSubscribe"]]
    if fields.get("OverSubscribe") == "YES":
        yield "--oversubscribe"
    if fields.get("Contiguous", "0") != "0":
        yield "--contiguous"
    if left is not None and not environment.get("SBATCH_SIGNAL"):
        yield from _signal(script, left)


def _with_patterns(path: str, fields: Mapping[str, str]) -> str:
    """The name of a log, with Slurm's patterns in place of the numbers of this job."""
    path = path.replace("%", "%%")
    task = f"{fields.get('ArrayJobId', '')}_{fields.get('ArrayTaskId', '')}"
    for number, pattern in ((task, "%A_%a"), (fields.get("ArrayJobId"), "%A"), (fields.get("JobId"), "%j")):
        folder, slash, name = path.rpartition("/")
        if number and number != "_":
            path = folder + slash + re.sub(rf"(?<!\d){number}(?!\d)", pattern, name)
    return path


def _signal(script: str, left: float) -> Iterator[str]:
    """The option --signal of this job, which Slurm does not show, from the time of its warning."""
    stated = re.search(r"(?m)^#SBATCH --signal=(B:\w+)@(\d+)", script)
    if stated and not left - _WARNING_DELAY_SECONDS <= int(stated[2]) <= left + 2:
        yield f"--signal={stated[1]}@{30 * int((left + 2) // 30)}"
