"""Fields of `scontrol show job`, and the options of sbatch that a successor needs."""

import pytest

from climax_hpc.launch import slurm_job

# Slurm 22.05: sbatch --job-name='a b' --comment='hello x=y there' --mem=300 --nodes=2 --ntasks-per-node=2 --time=5 …
SHOWN = """\
JobId=736868 JobName=a b
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:02 TimeLimit=1-00:05:00 TimeMin=N/A
   PreemptEligibleTime=2026-11-26T19:02:20 PreemptTime=None
   Partition=normal AllocNode:Sid=localhost:6315
   ReqNodeList=(null) ExcNodeList=node[7-9]
   NumNodes=2 NumCPUs=4 NumTasks=4 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   Socks/Node=* NtasksPerN:B:S:C=2:0:*:* CoreSpec=*
   MinCPUsNode=2 MinMemoryNode=300M MinTmpDiskNode=0
   Features=gpu&hbm80g DelayBoot=00:00:00
   OverSubscribe=NO Contiguous=0 Licenses=(null) Network=(null)
   Command=/home/me/j.sh a=b
   WorkDir=/home/me/it's 100% "mine"
   Comment=hello StdOut=x there 
   StdErr=/home/me/736868/it's 100% a b-736868.out
   StdIn=/dev/null
   StdOut=/home/me/736868/it's 100% a b-736868.out
   TresPerNode=gres:gpu:4,gres:nvme:1
   MailUser=me@there MailType=END
"""  # noqa: W291 — Slurm ends the comment with a blank


def options(text: str = SHOWN, *, left: float | None = None, **environment: str) -> list[str]:
    script = "#!/bin/sh\n#SBATCH --signal=B:USR1@300\n"
    return list(slurm_job.successor_options(slurm_job.fields_of(text), environment, script=script, left=left))


def test_fields() -> None:
    fields = slurm_job.fields_of(SHOWN)
    assert fields["JobName"] == "a b"
    assert fields["Comment"] == "hello StdOut=x there"
    assert fields["Command"] == "/home/me/j.sh a=b"
    assert fields["NtasksPerN:B:S:C"] == "2:0:*:*"
    assert not {"Account", "QOS", "PreemptTime", "CoreSpec", "TimeMin"} & fields.keys()
    assert slurm_job.is_running(fields)
    assert not slurm_job.is_preempted(fields)
    assert slurm_job.fields_of("slurm_load_jobs error: Invalid job id specified") == {}


def test_a_successor_gets_every_option_of_the_job() -> None:
    found = options(SLURM_JOB_NUM_NODES="2", SLURM_NTASKS_PER_NODE="2")
    assert set(found) == {
        "--job-name=a b", "--comment=hello StdOut=x there", "--partition=normal", "--nice=0", "--time=1-00:05:00",
        "--exclude=node[7-9]", "--constraint=gpu&hbm80g", "--mem=300M", "--tmp=0", "--nodes=2", "--ntasks-per-node=2",
        '--chdir=/home/me/it\'s 100% "mine"', "--input=/dev/null", "--mail-user=me@there", "--mail-type=END",
        "--output=/home/me/736868/it's 100%% a b-%j.out", "--error=/home/me/736868/it's 100%% a b-%j.out",
        "--gres=gpu:4,nvme:1", "--exclusive",
    }  # fmt: skip


def test_options_that_exclude_each_other() -> None:
    found = options(SLURM_GPUS_PER_NODE="4", SLURM_MEM_PER_GPU="1G")
    assert "--gpus-per-node=4" in found
    assert "--mem-per-gpu=1G" in found
    assert not any(option.startswith(("--gres", "--mem=")) for option in found)


def test_the_log_of_an_array_task() -> None:
    text = "JobId=14 ArrayJobId=12 ArrayTaskId=1 JobName=x\n   StdOut=/a/12_1/climax-12_1.out\n"
    assert "--output=/a/12_1/climax-%A_%a.out" in options(text)
    assert "--output=/a/my.log" in options("JobId=1\nStdOut=/a/my.log")


@pytest.mark.parametrize(
    ("left", "environment", "signal"),
    [
        (None, {}, []),
        (301.0, {}, []),  # that of the script
        (330.0, {}, []),
        (120.0, {}, ["--signal=B:USR1@120"]),
        (140.0, {}, ["--signal=B:USR1@120"]),
        (899.0, {}, ["--signal=B:USR1@900"]),
        (120.0, {"SBATCH_SIGNAL": "B:USR1@100"}, []),  # sbatch reads it from the environment
    ],
)
def test_signal_of_a_successor(left: float | None, environment: dict[str, str], signal: list[str]) -> None:
    assert [option for option in options(left=left, **environment) if option.startswith("--signal")] == signal


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4:58", 298), ("00:05:00", 300), ("1-00:05:00", 86_700), ("UNLIMITED", None), ("", None), ("INVALID", None)],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert slurm_job.seconds(text) == seconds
