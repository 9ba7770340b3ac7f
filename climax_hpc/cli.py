"""The command line: `climax-hpc VERB --config NAME|FILE [--dotted.key value]`."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from climax_hpc.distributed.signals import WARNING_SIGNAL
from climax_hpc.errors import UserError, print_error


@dataclass(frozen=True)
class Subcommand:
    """One verb; `config` and `run` are "module:name", imported only when the verb is used."""

    help: str
    config: str
    run: str
    word: str | None = None
    """Keys that plain words right after the verb stand for, separated by spaces."""
    first: str | None = None
    """Called before anything is imported for the verb."""


# A verb of two words is one of a family, such as the suites of `bench`.
SUBCOMMANDS = {
    "demo": Subcommand(
        "the whole chain on the shipped sample: pack, pretrain, fine-tune, evaluate, report (about 5 minutes)",
        "climax_hpc.experiments.demo:DemoConfig",
        "climax_hpc.experiments.demo:demo",
    ),
    "simulate": Subcommand(
        "run a general circulation model (JCM) and write its output in CMIP6 format",
        "climax_hpc.data_prep.simulation.config:SimulateConfig",
        "climax_hpc.data_prep.simulation.simulate:simulate",
    ),
    "pack": Subcommand(
        "prepare CMIP6 NetCDF as HDF5 shards (also under mpiexec)",
        "climax_hpc.data_prep.config:PackConfig",
        "climax_hpc.data_prep.pack:pack",
        first="climax_hpc.distributed.launcher:join_mpi",
    ),
    "verify": Subcommand(
        "check every checksum of a packed data set",
        "climax_hpc.data_prep.config:VerifyConfig",
        "climax_hpc.data_prep.verify:verify_command",
    ),
    "inspect": Subcommand(
        "show what a packed data set holds: table, mean maps, time series: `inspect DATASET`",
        "climax_hpc.tools.inspect.inspect:InspectConfig",
        "climax_hpc.tools.inspect.inspect:inspect",
        word="dataset",
    ),
    "pair": Subcommand(
        "name the time steps that a coarse and a fine data set share, for downscaling",
        "climax_hpc.data_prep.pairs:PairConfig",
        "climax_hpc.data_prep.pairs:pair",
    ),
    "pretrain": Subcommand(
        "pretrain on packed sources (also under torchrun, mpiexec, srun)",
        "climax_hpc.config.training:PretrainConfig",
        "climax_hpc.training.train:pretrain",
    ),
    "finetune": Subcommand(
        "fine-tune a checkpoint, or train from scratch: forecasts, downscaling, climate projection",
        "climax_hpc.config.training:FinetuneConfig",
        "climax_hpc.tasks.registry:finetune",
    ),
    "evaluate": Subcommand(
        "score checkpoints and baselines on a held-out period",
        "climax_hpc.config.inference:EvaluateConfig",
        "climax_hpc.tasks.registry:evaluate",
    ),
    "predict": Subcommand(
        "forecast from packed data, NetCDF or zarr to CF-compliant NetCDF or zarr",
        "climax_hpc.config.inference:PredictConfig",
        "climax_hpc.tasks.registry:predict",
    ),
    "report": Subcommand(
        "one self-contained HTML page from an evaluation or a sweep",
        "climax_hpc.config.inference:ReportConfig",
        "climax_hpc.tasks.registry:report",
    ),
    "convert": Subcommand(
        "one safetensors file from a checkpoint or an original ClimaX file",
        "climax_hpc.tools.convert:ConvertConfig",
        "climax_hpc.tools.convert:convert",
        word="source",
    ),
    "plan": Subcommand(
        "memory, arithmetic, communication and time of a pretraining before it is queued",
        "climax_hpc.tools.plan.config:PlanConfig",
        "climax_hpc.tools.plan.planner:plan",
    ),
    "doctor": Subcommand(
        "check this machine: Python, torch, DeepSpeed, Triton, MPI, Slurm, file system, ranks, data set",
        "climax_hpc.tools.doctor.doctor:DoctorConfig",
        "climax_hpc.tools.doctor.doctor:doctor",
    ),
    "submit": Subcommand(
        "submit a run, a sweep or a pipeline to Slurm or to this machine: `submit sweep`",
        "climax_hpc.launch.config:SubmitConfig",
        "climax_hpc.launch.submit:submit",
        word="what",
    ),
    "status": Subcommand(
        "state, step, loss, throughput, time left and restarts of runs: `status FOLDER`",
        "climax_hpc.launch.config:StatusConfig",
        "climax_hpc.launch.status:status",
        word="run",
    ),
    "bench kernels": Subcommand(
        "time and memory of the kernels and of whole model steps, correctness first",
        "climax_hpc.tools.bench.kernels:KernelsConfig",
        "climax_hpc.tools.bench.kernels:bench",
    ),
    "bench data": Subcommand(
        "packer and loader against xarray, raw reads, h5py and research code",
        "climax_hpc.tools.bench.data:DataBenchConfig",
        "climax_hpc.tools.bench.data:bench",
    ),
    "bench step": Subcommand(
        "whole training steps: ranks against the textbook model under DDP, start, checkpoints, the planner",
        "climax_hpc.tools.bench.step:StepConfig",
        "climax_hpc.tools.bench.step:bench",
    ),
    "tasks": Subcommand(
        "list the downstream tasks and their own settings",
        "climax_hpc.config.training:NoConfig",
        "climax_hpc.tasks.registry:print_tasks",
    ),
    "bench command": Subcommand(
        "time a command, as a row: `bench command 'make demo' --limit_seconds 360`",
        "climax_hpc.tools.bench.command:CommandConfig",
        "climax_hpc.tools.bench.command:bench",
        word="command",
    ),
    "bench record": Subcommand(
        "gather the rows of benches as one dated file of this machine, for benchmarks/",
        "climax_hpc.tools.bench.record:RecordConfig",
        "climax_hpc.tools.bench.record:record",
    ),
    "bench compare": Subcommand(
        "compare two such files row by row: `bench compare BEFORE AFTER`",
        "climax_hpc.tools.bench.compare:CompareConfig",
        "climax_hpc.tools.bench.compare:compare",
        word="before after",
    ),
    "variables": Subcommand(
        "list the registry: name, CMIP6 id, level, units",
        "climax_hpc.config.training:NoConfig",
        "climax_hpc.fields.variables:print_registry",
    ),
}

_HEAD = """usage: climax-hpc VERB [--config NAME|FILE] [--dotted.key VALUE] [--print_config] [--help]

From raw CMIP6 to verified forecasts; every verb reads one YAML file and dotted keys override it.

verbs:
"""


def load(target: str) -> Any:
    """The object named by "module:name"."""
    module, name = target.split(":")
    return getattr(import_module(module), name)


def usage() -> str:
    """The overview that `climax-hpc --help` prints."""
    lines = [f"  {name:<13} {verb.help}" for name, verb in SUBCOMMANDS.items()]
    return _HEAD + "\n".join(lines) + "\n\n`climax-hpc VERB --help` lists the keys of a verb."


def run(arguments: Sequence[str]) -> None:
    """Run one verb.

    Raises:
        UserError: unknown verb, unknown or bad key, or bad input found by the verb.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from climax_hpc.utils.provenance import package_version

        print(package_version())
        return
    words = 2 if any(name.split()[:-1] == [arguments[0]] for name in SUBCOMMANDS) else 1
    name = " ".join(arguments[:words])
    if name not in SUBCOMMANDS:
        if words == 2 and arguments[1:2] in ([], ["-h"], ["--help"]):
            family = [name.split()[1] for name in SUBCOMMANDS if name.startswith(f"{arguments[0]} ")]
            raise UserError(f"{arguments[0]} what? use climax-hpc {arguments[0]} {'|'.join(family)}")
        from climax_hpc.config.parser import nearest

        raise UserError(f"unknown verb {name!r}{nearest(name, SUBCOMMANDS)}; `climax-hpc --help` lists them")
    verb = SUBCOMMANDS[name]
    if verb.first:
        load(verb.first)()
    rest = list(arguments[words:])
    for place, key in enumerate((verb.word or "").split()):
        if len(rest) <= place or rest[place].startswith("-"):
            break
        rest[place] = f"--{key}={rest[place]}"
    from climax_hpc.config.parser import read_config

    config = read_config(load(verb.config), f"climax-hpc {name}", rest)
    action: Callable[[Any], object] = load(verb.run)
    action(config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input ends in one line on standard error and exit status 2."""
    try:
        run(sys.argv[1:] if arguments is None else arguments)
        if arguments is None:  # the work is done: a warning from the batch system must not make it look failed
            signal.signal(WARNING_SIGNAL, signal.SIG_IGN)
    except UserError as error:
        sys.stdout.flush()
        print_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        print("climax-hpc: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
