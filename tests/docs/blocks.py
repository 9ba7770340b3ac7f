"""Runs the command blocks of a page in this process, on small data.

A page shows the command that a reader would type. Here training takes two steps of a tiny network, packing one source
of the sample, and an evaluation ten days. Launchers (`torchrun`, `mpiexec`) are left out: one rank runs.
"""

import io
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from climax_hpc.cli import run

SHORT = (
    "--train.steps=2", "--train.checkpoint_every=2", "--optimizer.warmup_steps=1", "--data.micro_batch_size=1",
    "--data.micro_batches_per_step=1",
)  # fmt: skip
TRAINING = (*SHORT, "--model.embed_dim=16", "--model.depth=1", "--model.heads=2")
# Verb -> keys that make it small; keys of the command line that come later win.
SMALLER: dict[str, tuple[str, ...]] = {
    "pretrain": TRAINING,
    "finetune": TRAINING,
    "evaluate": (
        '--period=["2004-01-01", "2004-01-08"]',
        "--lead_hours=[24]",
        "--map_lead_hours=24",
        "--resamples=100",
    ),
    "inspect": ("--steps=4", '--sources=["JCM-C_piClim-control_r1i1p1f1"]'),
}


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; quotes and backslashes may continue a line."""
    pending = ""
    for line in block.split("\n"):
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that the next line closes
            pending += "\n"
            continue
        pending = ""
        if words:
            yield words
    assert not pending, f"unfinished command: {pending}"


def run_shell(block: str) -> str:
    """Run every command of a block; what they printed."""
    printed = io.StringIO()
    for words in commands(block):
        own, file = words, None
        if ">" in words:
            own, file = words[: words.index(">")], words[words.index(">") + 1]
        output = io.StringIO()
        with redirect_stdout(output):
            _run_command(own)
        if file is not None:
            Path(file).write_text(output.getvalue(), encoding="utf-8")
        printed.write(output.getvalue())
    return printed.getvalue()


def run_python(block: str, place: str) -> None:
    """Run a Python block by itself."""
    with redirect_stdout(io.StringIO()):
        exec(compile(block, place, "exec"), {"__name__": "__main__"})


def matches(shown: str, printed: str) -> bool:
    """True where a transcript is what was printed; a line may end early in "…"."""
    lines, found = shown.rstrip().split("\n"), printed.rstrip().split("\n")
    if len(lines) != len(found):
        return False
    return all(
        real.startswith(line[:-1].rstrip()) if line.endswith("…") else line.rstrip() == real.rstrip()
        for line, real in zip(lines, found, strict=True)
    )


def _run_command(words: Sequence[str]) -> None:
    words = _without_launcher(list(words))
    if words[0] == "climax-hpc":
        _ends_well(lambda: run(smaller(words[1:])))
    elif words[:2] == ["python", "-m"]:
        _ends_well(lambda: _run_module(words[2], words[3:]))
    else:
        pytest.fail(f"cannot run {shlex.join(words)}: give the block a title that says what it needs")


def _without_launcher(words: list[str]) -> list[str]:
    if words[0] == "mpiexec":
        return words[3:]
    if words[0] == "torchrun":
        return ["climax-hpc", *words[words.index("climax_hpc") + 1 :]]
    return words


def smaller(arguments: Sequence[str]) -> list[str]:
    """The arguments of `climax-hpc` with what makes the verb small."""
    verb, rest = arguments[0], list(arguments[1:])
    extra = list(SMALLER.get(verb, ()))
    if verb == "pack" and "@sample" in rest and "--sources" not in rest:
        extra = ['--sources=["JCM-C_*"]']
    if "--print_config" in rest:
        extra = []
    return [verb, *rest, *extra]


def _run_module(module: str, arguments: Sequence[str]) -> None:
    kept = sys.argv
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = kept


def _ends_well(action: object) -> None:
    try:
        action()  # type: ignore[operator]
    except SystemExit as end:
        if end.code not in (0, None):
            pytest.fail(f"exit status {end.code}")
