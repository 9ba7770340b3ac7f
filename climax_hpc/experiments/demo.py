"""`climax-hpc demo`: all steps on the shipped sample; each stage is a command that a user would type."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from climax_hpc.config.paths import ConfigPath
from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import is_temporary
from climax_hpc.utils.files import remove_empty, write_json
from climax_hpc.utils.folder_lock import LOCK, is_empty, locked_folder

FOLDER = "runs/demo"
"""Output folder of the packaged demo configs."""
MARKER = "demo.json"
_PARTS = ("data", "pretrain", "finetune", "scratch", "weights", "evaluation", "report.html", "demo.png", MARKER)
_OWN = re.compile(
    rf"""{MARKER} | report\.html | demo\.png | evaluation/(evaluation\.json|maps\.npz)
    | data/(manifest|pack_state)\.json | data/([^/]+/)?[^/]+\.h5 | data/\.first_pass/.+
    | (pretrain|finetune|scratch|weights)/
      ((config\.yaml|(provenance|transfer|state|normalisation)\.json|(metrics|starts)\.jsonl)
      | tensorboard/events[^/]+ | stacks/[^/]+
      | checkpoints/(latest|best|resumed_from|\.?step_\d{{8,}}(\.partial|\.universal)?/.+))
    | (.*/)?{re.escape(LOCK)}""",
    re.VERBOSE,
)
"""The files that a demo writes, also one that was killed."""
_TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "climax_hpc")
_QUICK_TRAINING = ("--train.steps=20", "--optimizer.warmup_steps=2", "--train.log_every=10")
_QUICK_EVALUATION = ("--lead_hours=[24,72]", "--resamples=100")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """`climax-hpc demo`: pack the shipped CMIP6 sample, pretrain, fine-tune, evaluate, write a report."""

    run_folder: ConfigPath = FOLDER
    """Folder for data, runs, evaluation and report.html; replaces the output of an earlier demo."""
    quick: bool = False
    """Train for 20 steps and score 2 lead times, in about a minute: a check of the installation, not of skill."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the demo."""

    title: str
    words: tuple[str, ...]
    """Arguments after `python -m`."""


def demo(config: DemoConfig) -> None:
    """Run every stage; exits with the status of the first that fails.

    Raises:
        UserError: the folder contains other files than those of an earlier demo.
    """
    folder = Path(config.run_folder)
    with locked_folder(folder, "run_folder"):
        _clear(folder)
        write_json(folder / MARKER, {"quick": config.quick})
        _run(stages_of(config))
    print(f"open {(folder / 'report.html').resolve()}")


def _run(stages: Sequence[Stage]) -> None:
    # Two ranks of one thread each: on a busy machine, synchronising threads cost much more.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    start, seconds = time.perf_counter(), {}
    for number, stage in enumerate(stages, start=1):
        print(f"\n[{number}/{len(stages)}] {stage.title}: {_as_typed(stage.words)}", flush=True)
        begun = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", *stage.words], env=environment).returncode
        seconds[stage.title] = time.perf_counter() - begun
        if status:
            print(f"the demo stopped in stage {number} ({stage.title}), exit status {status}", file=sys.stderr)
            sys.exit(status)
    print("\n" + "\n".join(f"{value:6.0f} s  {name}" for name, value in seconds.items()))
    print(f"{time.perf_counter() - start:6.0f} s  in all\n")


def stages_of(config: DemoConfig) -> list[Stage]:
    """The commands in their order."""
    folder = config.run_folder
    training, evaluation = (_QUICK_TRAINING, _QUICK_EVALUATION) if config.quick else ((), ())

    def verb(name: str, *options: str) -> tuple[str, ...]:
        return (name, *_config(f"demo_{name}", folder), *options)

    scratch = ("--checkpoint", "null", "--run_folder", f"{folder}/scratch")
    stages = {
        "pack the CMIP6 sample": ("climax_hpc", *verb("pack")),
        "verify the shards": ("climax_hpc", "verify", "--dataset", f"{folder}/data"),
        "pretrain on JCM-A and JCM-B": (*_TORCHRUN, *verb("pretrain", *training)),
        "fine-tune on JCM-C": (*_TORCHRUN, *verb("finetune", *training)),
        "the same from scratch": (*_TORCHRUN, *verb("finetune", *training), *scratch),
        "fine-tune the packaged weights": (*_TORCHRUN, "finetune", *_config("demo_weights", folder), *training),
        "score on the held-out year": ("climax_hpc", *verb("evaluate", *evaluation)),
        "write the report": ("climax_hpc", *verb("report")),
    }
    return [Stage(title=title, words=words) for title, words in stages.items()]


def _config(name: str, folder: str) -> tuple[str, ...]:
    """Options that name a shipped config, with its paths in this folder."""
    return ("--config", name, *_moved(name, folder))


def _moved(name: str, folder: str) -> Iterator[str]:
    """Options that move the paths of a shipped config to another folder; none for the folder that it names."""
    if folder == FOLDER:
        return
    settings = yaml.safe_load((files("climax_hpc.configs") / f"{name}.yaml").read_text(encoding="utf-8"))
    settings |= {f"data.{key}": value for key, value in settings.pop("data", {}).items()}
    for key, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if FOLDER in text:
            yield f"--{key}={text.replace(FOLDER, folder)}"


def _clear(folder: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else.

    Raises:
        UserError: the folder is not empty and has no demo in it, or its parts hold files that no demo writes.
    """
    if not is_empty(folder) and not (folder / MARKER).is_file():
        raise UserError(
            f"run_folder: {folder} is not empty and no demo wrote it: remove it, or choose another --run_folder"
        )
    parts = [folder / name for name in _PARTS]
    files = [path for part in parts for path in (part, *part.rglob("*")) if path.is_symlink() or path.is_file()]
    foreign = [
        path for path in files if not is_temporary(path) and not _OWN.fullmatch(path.relative_to(folder).as_posix())
    ]
    if foreign:
        raise UserError(f"run_folder: {foreign[0]} is not of a demo: move it, or choose another --run_folder")
    for path in files:
        path.unlink()
    folders = {inner for path in files for inner in path.parents if folder in inner.parents}
    remove_empty(sorted({*folders, *parts}, key=lambda inner: -len(inner.parts)))


def _as_typed(words: tuple[str, ...]) -> str:
    """The command as a user would type it."""
    line = shlex.join(words).replace("torch.distributed.run", "torchrun")
    return line if line.startswith("torchrun") else line.replace("climax_hpc", "climax-hpc", 1)
