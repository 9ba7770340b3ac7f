"""Starts a training as light ranks: forked processes that run all of it up to the first batch, without the network.

python -m tests.training.light_ranks

`train_from` is replaced, which builds network and DeepSpeed engine and loads the engine's state: these make a rank
heavy. What comes before is the project's own code: process group, lock, run folder, resume point and its hashes,
manifest, headers, normalisation, staging, sampler, first batch, heartbeat. `rank_servers.py` sends it requests.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
import torch.distributed
import torch.utils.tensorboard
import yaml
from torch.distributed import distributed_c10d

from climax_hpc.checkpoint.format import ENGINE, MODEL, SUMS, TRAINING, WEIGHTS
from climax_hpc.config.parser import read_config
from climax_hpc.config.training import PretrainConfig
from climax_hpc.distributed import datagrams, heartbeat, process_group
from climax_hpc.shards.manifest import manifest_bytes, read_manifest
from climax_hpc.tools.bench.heartbeat_scale import ImitatedRun, replay
from climax_hpc.training import data_setup, train
from climax_hpc.training.resume import ResumePoint
from climax_hpc.training.setup import TrainingSetup
from climax_hpc.training.state import TrainingState
from climax_hpc.training.supervision import RunMonitor
from climax_hpc.utils.files import sha256, write_json, write_text

from .file_calls import small_training
from .stand_in import Coordinator, join
from .start_up_jobs import INTERVALS, Job

_HANG_TIMEOUT = 900.0
_LONGEST = 900  # seconds of a start


def mark(job: Job, start: str, rank: int, what: str) -> None:
    """A system call that strace sees: a question for a file that does not exist."""
    os.path.lexists(f"{job.folder}/marks/{start}/{rank}/{what}")


def main() -> None:
    """Do what is asked for, a JSON object in each line of the input, and write a line for each.

    Raises:
        SystemExit: a rank has failed.
    """
    for line in sys.stdin:
        request = json.loads(line)
        what, job = request.pop("what"), Job(**request.pop("job"))
        {"prepare": prepare, "start": run, "write_checkpoint": write_checkpoint}[what](job, **request)
        print("done", flush=True)


def prepare(job: Job) -> None:
    """Write a data set and the settings of a training on it.

    Each rank reads one micro-batch of one sample, which lies in one shard.
    """
    settings = small_training(Path(job.folder), shards_per_year=1)
    settings["data"] |= {"micro_batches_per_step": job.ranks, "min_lead_hours": 6, "max_lead_hours": 6}
    write_json(Path(job.settings), settings)


def run(job: Job, start: str, port: int, ranks: Sequence[int]) -> None:
    """One start: fork these ranks, stand in for those that do not run, wait.

    Args:
        port: of torch's store, which rank 0 serves.

    Raises:
        SystemExit: a rank has failed.
    """
    stop = Event()
    pipes = [Pipe() for _ in ranks] if job.simulated else []
    configs, children = read_configs(job, start, ranks), set[int]()
    dataset = Path(job.dataset)
    read_manifest(dataset, manifest_bytes(dataset))  # pydantic's validators are made once, not in every rank
    gc.collect()
    gc.freeze()  # what exists now is never garbage, and its pages stay shared
    for number, rank in enumerate(ranks):
        if child := os.fork():
            children.add(child)
            continue
        _as_rank(job, start, rank, port, configs[job.node(rank)], pipes[number][1] if pipes else None)
    if pipes:
        for _, theirs in pipes:
            theirs.close()
        imitated = ImitatedRun(
            ranks=job.ranks, ranks_per_node=job.per_node, light=job.running, hang_timeout=4 * job.interval
        )
        Coordinator(job, [own for own, _ in pipes], partial(_send_for_others, imitated, stop)).start()
    failed = _wait(children)
    stop.set()
    for own, _ in pipes:
        own.close()
    if failed:
        sys.exit(f"a light rank ended with {failed}; see {job.folder}")


def _wait(children: set[int]) -> int:
    """Wait for the ranks; the exit status of the first that fails, after the others are killed, else 0."""
    failed = 0
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and not failed:
            failed = os.waitstatus_to_exitcode(status)
            for other in children:
                os.kill(other, signal.SIGKILL)
    return failed


def _send_for_others(imitated: ImitatedRun, stop: Event, first: datagrams.Address, key: bytes) -> None:
    """Heartbeats of the nodes that do not run, as they would send them to rank 0."""
    if imitated.light < imitated.ranks:
        Thread(target=replay, args=(imitated, first, key, stop, _Nothing()), daemon=True).start()


class _Nothing:
    """Takes what `replay` puts once it has started."""

    def put(self, value: object) -> None:
        """Forget it."""


def _as_rank(job: Job, start: str, rank: int, port: int, config: PretrainConfig, pipe: Connection | None) -> None:
    """Be a rank, and end this process."""
    status = 1
    signal.alarm(_LONGEST)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # strace comes first: all ranks wait for it
    os.nice(10)
    log = os.open(f"{job.folder}/{start}_{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": str(job.ranks), "LOCAL_RANK": str(rank % job.per_node),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        light_rank(job, start, rank, config, pipe)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def light_rank(job: Job, start: str, rank: int, config: PretrainConfig, pipe: Connection | None) -> None:
    """Train up to the first batch and for some heartbeats; write what this rank holds and has exchanged."""
    before = Counter(open_descriptors())
    name = job.node(rank)
    datagrams.node_name = data_setup.node_name = lambda: name
    heartbeat.beat_interval = lambda timeout: job.interval
    mark(job, start, rank, "begin")
    exec(job.fault, {"rank": rank, "job": job})
    if pipe:
        join(rank, job.ranks, pipe)
    collectives = counted_collectives()

    def up_to_first_batch(resume_point: ResumePoint, setup: TrainingSetup, monitor: RunMonitor) -> None:
        """What `train_from` does before its first step, without network and engine."""
        step = resume_point.state.step
        assert (step > 0) == (start != "first")
        _, stream = setup.batches(resume_point.state, lambda seconds: None)
        process_group.on_all(lambda: setup.progress.begin(step))
        assert next(stream)[0] == step
        found = {"collectives": dict(collectives), "descriptors": Counter(open_descriptors()) - before}
        torch.distributed.barrier()
        mark(job, start, rank, "started")
        end = time.monotonic() + INTERVALS * job.interval
        while time.monotonic() < end:
            monitor.heartbeat.at("step")
            time.sleep(job.interval / 10)
        mark(job, start, rank, "end")
        torch.distributed.barrier()  # a rank that ends closes the socket of its heartbeat
        Path(job.folder, f"{start}_{rank}.json").write_text(json.dumps(found))
        setup.progress.end("stopped")

    train.train_from = up_to_first_batch  # type: ignore[assignment]
    train.train(config, None)
    torch.distributed.barrier()


def counted_collectives() -> Counter[str]:
    """Counts from now on the collectives of this process by kind, and the bytes that each leaves on this rank."""
    counts: Counter[str] = Counter()

    def counted(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[kind] += 1
            counts["bytes"] += sum(each.nbytes for each in arguments[:1] if isinstance(each, torch.Tensor))
            return original(*arguments, **options)

        return call

    for kind in ("broadcast", "all_reduce", "all_gather", "barrier"):
        wrapped = counted(kind, getattr(distributed_c10d, kind))
        for module in (distributed_c10d, torch.distributed):
            setattr(module, kind, wrapped)
    process_group.combined_on_first = counted("tree", process_group.combined_on_first)
    return counts


def read_configs(job: Job, start: str, ranks: Iterable[int]) -> dict[str, PretrainConfig]:
    """The config of this start on each node of these ranks: its local disk is a folder of its own."""
    configs = {}
    for name in sorted({job.node(rank) for rank in ranks}):
        settings = json.loads(Path(job.settings).read_text())
        settings["train"] |= {"steps": 1 if start == "first" else 2, "hang_timeout": _HANG_TIMEOUT}
        if start == "staged":
            settings["data"] |= {"stage_to": f"{job.stage}/{name}"}
        path = Path(job.folder, f"{start}_{name}.yaml")
        path.write_text(yaml.safe_dump(settings))
        configs[name] = read_config(PretrainConfig, "climax-hpc pretrain", ["--config", str(path)])
    return configs


def write_checkpoint(job: Job) -> None:
    """A checkpoint after one step as all ranks write it at ZeRO stage 1, with small files in place of states."""
    checkpoints = Path(job.run_folder, "checkpoints")
    folder = checkpoints / "step_00000001"
    (folder / ENGINE).mkdir(parents=True)
    for name in (MODEL, WEIGHTS, f"{ENGINE}/mp_rank_00_model_states.pt"):
        (folder / name).write_bytes(name.encode())
    for rank in range(job.ranks):
        (folder / ENGINE / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(rank.to_bytes(2) * 500)
    write_json(folder / TRAINING, TrainingState(step=1, ranks=job.ranks).to_dict())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / SUMS, {path.relative_to(folder).as_posix(): sha256(path) for path in files})
    write_text(checkpoints / "latest", folder.name + "\n")


def open_descriptors() -> list[str]:
    """Kind of each open descriptor: the path of a file, or the word before a colon, such as socket."""
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            kinds.append(target if target.startswith("/") else target.partition(":")[0])
    return kinds


if __name__ == "__main__":
    main()
