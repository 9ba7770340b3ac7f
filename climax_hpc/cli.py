"""The command line: `climax-hpc COMMAND --config NAME|FILE [--dotted.key VALUE]`."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from climax_hpc.distributed.refusals import refused_once
from climax_hpc.distributed.signals import WARNING_SIGNAL
from climax_hpc.errors import UserError
from climax_hpc.utils.command_guard import command_guard
from climax_hpc.utils.private_folders import check_kernel_caches
from climax_hpc.utils.references import load


@dataclass(frozen=True)
class Subcommand:
    """One command; `config`, `run` and `setup` are "module:name", imported only when the command is used."""

    group: str
    """Heading in the overview."""
    help: str
    config: str
    run: str
    positional: tuple[str, ...] = ()
    """Keys that may be given without their name, directly after the command."""
    setup: str | None = None
    """Called before any other import of the command."""


# A name of two words belongs to a family, such as the suites of `bench`.
SUBCOMMANDS = {
    "demo": Subcommand(
        "Start here",
        "run every step on the shipped sample, from packing to the report (about 5 minutes)",
        "climax_hpc.experiments.demo:DemoConfig",
        "climax_hpc.experiments.demo:demo",
    ),
    "variables": Subcommand(
        "Start here",
        "list the variables: name, CMIP6 id, level, units",
        "climax_hpc.config.training:NoConfig",
        "climax_hpc.fields.variables:print_registry",
    ),
    "tasks": Subcommand(
        "Start here",
        "list the downstream tasks and their settings",
        "climax_hpc.config.training:NoConfig",
        "climax_hpc.tasks.registry:print_tasks",
    ),
    "weights": Subcommand(
        "Start here",
        "list the trained weights in the package",
        "climax_hpc.config.training:NoConfig",
        "climax_hpc.tools.weights:print_weights",
    ),
    "doctor": Subcommand(
        "Start here",
        "check this machine (software, GPUs, MPI, Slurm, file system) and suggest fixes",
        "climax_hpc.tools.doctor.doctor:DoctorConfig",
        "climax_hpc.tools.doctor.doctor:doctor",
    ),
    "simulate": Subcommand(
        "Data",
        "run a general circulation model (JCM) and write its output in CMIP6 format",
        "climax_hpc.data_prep.simulation.config:SimulateConfig",
        "climax_hpc.data_prep.simulation.simulate:simulate",
    ),
    "fetch": Subcommand(
        "Data",
        "download what a pack config selects from ESGF, verified and resumable",
        "climax_hpc.data_prep.fetching.config:FetchConfig",
        "climax_hpc.data_prep.fetch:fetch",
    ),
    "pack": Subcommand(
        "Data",
        "convert CMIP6 NetCDF files to HDF5 shards; also runs under mpiexec",
        "climax_hpc.data_prep.config:PackConfig",
        "climax_hpc.data_prep.pack:pack",
        setup="climax_hpc.distributed.launcher:join_mpi",
    ),
    "verify": Subcommand(
        "Data",
        "check every checksum of a packed data set",
        "climax_hpc.data_prep.config:VerifyConfig",
        "climax_hpc.data_prep.verify:verify_command",
    ),
    "repack": Subcommand(
        "Data",
        "write a packed data set again with other chunks; also runs under mpiexec",
        "climax_hpc.data_prep.config:RepackConfig",
        "climax_hpc.data_prep.repack:repack",
        setup="climax_hpc.distributed.launcher:join_mpi",
    ),
    "inspect": Subcommand(
        "Data",
        "show the contents of a packed data set: table, mean maps, time series",
        "climax_hpc.tools.inspect.inspect:InspectConfig",
        "climax_hpc.tools.inspect.inspect:inspect",
        positional=("dataset",),
    ),
    "pair": Subcommand(
        "Data",
        "list the time steps that a coarse and a fine data set share, for downscaling",
        "climax_hpc.data_prep.pairs:PairConfig",
        "climax_hpc.data_prep.pairs:pair",
    ),
    "plan": Subcommand(
        "Training",
        "estimate memory, time, communication and failures of a pretraining run before queueing it",
        "climax_hpc.tools.plan.config:PlanConfig",
        "climax_hpc.tools.plan.command:plan_command",
    ),
    "pretrain": Subcommand(
        "Training",
        "pretrain on packed data; also runs under torchrun, mpiexec and srun",
        "climax_hpc.config.training:PretrainConfig",
        "climax_hpc.training.train:pretrain",
    ),
    "finetune": Subcommand(
        "Training",
        "fine-tune a checkpoint on a downstream task, or train from scratch",
        "climax_hpc.config.training:FinetuneConfig",
        "climax_hpc.tasks.registry:finetune",
    ),
    "convert": Subcommand(
        "Training",
        "write a checkpoint, or an original ClimaX file, as one safetensors file",
        "climax_hpc.tools.convert_config:ConvertConfig",
        "climax_hpc.tools.convert:convert",
        positional=("source",),
    ),
    "evaluate": Subcommand(
        "Evaluation and prediction",
        "score checkpoints and baselines on a held-out period",
        "climax_hpc.config.inference:EvaluateConfig",
        "climax_hpc.tasks.registry:evaluate",
    ),
    "predict": Subcommand(
        "Evaluation and prediction",
        "forecast from packed data, NetCDF or zarr; writes CF-compliant NetCDF or zarr",
        "climax_hpc.config.inference:PredictConfig",
        "climax_hpc.tasks.registry:predict",
    ),
    "report": Subcommand(
        "Evaluation and prediction",
        "write an evaluation or a sweep as one self-contained HTML page",
        "climax_hpc.config.inference:ReportConfig",
        "climax_hpc.tasks.registry:report",
    ),
    "submit": Subcommand(
        "Clusters",
        "submit a run, a sweep or a pipeline to Slurm, or run it on this machine",
        "climax_hpc.launch.config:SubmitConfig",
        "climax_hpc.launch.submit:submit",
        positional=("what",),
    ),
    "status": Subcommand(
        "Clusters",
        "show state, step, loss, throughput, time left and restarts of runs",
        "climax_hpc.launch.config:StatusConfig",
        "climax_hpc.launch.status:status",
        positional=("run",),
    ),
    "bench kernels": Subcommand(
        "Benchmarks",
        "time and memory of the kernels and of whole model steps, after a correctness check",
        "climax_hpc.tools.bench.kernels:KernelsConfig",
        "climax_hpc.tools.bench.kernels:bench",
    ),
    "bench data": Subcommand(
        "Benchmarks",
        "packer and loader against xarray, raw reads, h5py and research code",
        "climax_hpc.tools.bench.data:DataBenchConfig",
        "climax_hpc.tools.bench.data:bench",
    ),
    "bench step": Subcommand(
        "Benchmarks",
        "training steps against the textbook model under DDP; start-up, checkpoints, planner",
        "climax_hpc.tools.bench.step:StepConfig",
        "climax_hpc.tools.bench.step:bench",
    ),
    "bench command": Subcommand(
        "Benchmarks",
        "time a command: `bench command 'make demo' --limit_seconds 360`",
        "climax_hpc.tools.bench.command:CommandConfig",
        "climax_hpc.tools.bench.command:bench",
        positional=("command",),
    ),
    "bench record": Subcommand(
        "Benchmarks",
        "collect benchmark rows in one dated file per machine",
        "climax_hpc.tools.bench.record:RecordConfig",
        "climax_hpc.tools.bench.record:record",
    ),
    "bench compare": Subcommand(
        "Benchmarks",
        "compare two such files row by row",
        "climax_hpc.tools.bench.compare:CompareConfig",
        "climax_hpc.tools.bench.compare:compare",
        positional=("before", "after"),
    ),
}

_MOST_OWNERS = 3  # commands that a message names; of more, the file says nothing

_HEAD = """usage: climax-hpc COMMAND [--config NAME|FILE] [--dotted.key VALUE] [--print_config] [--help]

From raw CMIP6 to verified forecasts. Every command reads its settings from a YAML file: the name of a shipped config
or a path. Dotted keys override single settings; lists are written '["a", "b"]', mappings '{name: value}', and null
stands for no value.
"""


def usage() -> str:
    """The overview that `climax-hpc --help` prints."""
    lines = [_HEAD]
    for group in dict.fromkeys(subcommand.group for subcommand in SUBCOMMANDS.values()):
        lines.append(f"{group}:")
        lines += [_usage_line(name, entry) for name, entry in SUBCOMMANDS.items() if entry.group == group]
        lines.append("")
    lines += [
        "`climax-hpc COMMAND --help` lists the settings of a command,",
        "`climax-hpc --version` prints the version.",
    ]
    return "\n".join(lines)


def _usage_line(name: str, entry: Subcommand) -> str:
    words = " ".join((name, *(key.upper() for key in entry.positional)))
    return f"  {words:<27} {entry.help}"


def _summary(entry: Subcommand) -> str:
    """The first lines of the command's own help."""
    words = f"{entry.help[0].upper()}{entry.help[1:]}."
    flags = " ".join(f"--{key}" for key in entry.positional)
    return f"{words} Words directly after the command, without a flag, stand for {flags}." if flags else words


def run(arguments: Sequence[str]) -> None:
    """Run one command.

    Raises:
        UserError: unknown command, unknown or bad key, or bad input found by the command.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if family := _family(arguments[0]) if arguments[1:2] in (["-h"], ["--help"]) else []:
        print("\n".join(_usage_line(name, SUBCOMMANDS[name]) for name in family))
        return
    if arguments[0] == "--version":
        from climax_hpc.utils.provenance import package_version

        print(package_version())
        return
    name = _name_of(arguments)
    subcommand = SUBCOMMANDS[name]
    if subcommand.setup:
        load(subcommand.setup)()
    rest = list(arguments[len(name.split()) :])
    for place, key in enumerate(subcommand.positional):
        if len(rest) <= place or rest[place].startswith("-"):
            break
        rest[place] = f"--{key}={rest[place]}"
    from climax_hpc.config.parser import UnknownKeys, read_config

    try:
        config = read_config(load(subcommand.config), f"climax-hpc {name}", rest, _summary(subcommand))
        check_kernel_caches()
        action: Callable[[Any], object] = load(subcommand.run)
        action(config)
    except UnknownKeys as error:  # also of a config that `submit` reads
        owners = " or ".join(f"climax-hpc {owner}" for owner in owners_of(error.keys))
        if not owners:
            raise
        raise UserError(
            f"{error.file}: is a config of {owners}, not of {error.program}, which has no key {error.unknown!r}"
        ) from None


def owners_of(keys: Sequence[str]) -> list[str]:
    """The commands whose configs have all of these keys; none where too many do."""
    from climax_hpc.config.parser import keys_of

    names = [name for name in SUBCOMMANDS if not name.startswith("bench ")]  # benchmarks are given words, no files
    found = [name for name in names if set(keys) <= keys_of(load(SUBCOMMANDS[name].config))]
    return found if len(found) <= _MOST_OWNERS else []


def _name_of(arguments: Sequence[str]) -> str:
    """The command that the first one or two words name.

    Raises:
        UserError: there is none of that name.
    """
    family = [name.split()[1] for name in _family(arguments[0])]
    if family and not arguments[1:]:
        raise UserError(f"missing suite: use climax-hpc {arguments[0]} {'|'.join(family)}")
    name = " ".join(arguments[: 2 if family else 1])
    if name not in SUBCOMMANDS:
        from climax_hpc.config.parser import nearest

        raise UserError(f"unknown command {name!r}{nearest(name, SUBCOMMANDS) or ';'} `climax-hpc --help` lists all")
    return name


def _family(word: str) -> list[str]:
    """Names of two words that begin with this one."""
    return [name for name in SUBCOMMANDS if name.split()[:-1] == [word]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input, and what the system refuses, end with one line on standard error."""
    with command_guard(), refused_once():
        run(sys.argv[1:] if arguments is None else arguments)
        if arguments is None:  # finished: a late warning from the batch system must not make the command fail
            signal.signal(WARNING_SIGNAL, signal.SIG_IGN)
