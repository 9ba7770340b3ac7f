"""Words of the command line, for every command: unknown keys, other types, huge numbers, odd characters, repeats."""

import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from climax_hpc.cli import SUBCOMMANDS

from .case import Case
from .harness import Harness, every, keys_of
from .tiny_chain import CONFIGS

# These work for long, or beyond this folder, when their words are valid.
ONLY_REFUSED = (
    "demo",
    "simulate",
    "fetch",
    "doctor",
    "bench kernels",
    "bench data",
    "bench step",
    "bench command",
    "bench record",
)
VALUES = (
    "", " ", "0", "-1", "1", "2", "1e9", "1e308", "-1e308", "1e-308", "9" * 30, "9" * 5000, "9**9**9**9", "nan", "inf",
    "-inf", "null", "true", "no", "~", "x", "X" * 300, "X" * 5000, "a b", "ä", "日本", "\u202e", "\x1b[31m", "a\nb",
    "\\", "'", '"', "$HOME", "$(id)", "`id`", ";", "*", "?", "[", "]", "{", "}", "[]", "{}", "[1, 2", "{a: 1}", "a\tb",
    "[[1, 2], [3]]", "{a: {b: 1}}", "..", "../..", "/", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", ".",
    "data", "run", "pairs.json", "model.safetensors", "cmip6", "missing", "a/b/c", "https://example.org/x", "=", "--",
    "@sample", "%s", "%n", "{0}", "!!python/object:os.system", "&a", "*a", "0x10", "010", "1_000", "1:30", "-", "a=b",
    "[2001, 2002]", "['2002', '2001']", "[2001]", "['0000', '9999']", "['-1', 'x']", "[-90, 90, 0, 360]", "Europe",
    "2001-02-30", "file:///x", "[a, b]", "\udcff",
)  # fmt: skip
FILES = (
    "data", "cmip6/missing", "missing.yaml", "/dev/null", "/dev/full", "run/metrics.jsonl", "model.safetensors", "",
    "x" * 300, "x/" * 3000, "\x1b[31m", "fifo", "..", "/proc/self/mem", "\udcff.yaml", "era5", "pack_fine.yaml",
)  # fmt: skip


def base(verb: str) -> tuple[str, ...]:
    return ("--config", f"{verb}.yaml") if verb in CONFIGS else ()


def misspelt(key: str, chance: random.Random) -> str:
    place = chance.randrange(len(key))
    return key[:place] + chance.choice(string.ascii_lowercase + "_-.") + key[place:]


def unknown_words(verb: str, keys: list[str], chance: random.Random) -> tuple[str, ...]:
    """Words that no command may accept."""
    wrong = misspelt(chance.choice(keys), chance) if keys else "x"
    while wrong in keys:
        wrong = misspelt(wrong, chance)
    value = chance.choice(("1", "x", "[1]", "true"))
    return chance.choice(
        [
            (*base(verb), f"--{wrong}={value}"),
            (*base(verb), f"--{wrong}", value),
            (f"--{wrong}={value}", *base(verb)),
            (*base(verb), f"-{wrong[0].upper()}"),
            (*base(verb), "surplus", "words"),
            (*base(verb), f"--{wrong}.{wrong}", value),
            (*base(verb), f"--{wrong.upper()}\x07\n", value),
        ]
    )


def words_of(verb: str, keys: list[str], chance: random.Random) -> tuple[str, ...]:
    """Words that may or may not be accepted."""
    key, value, other = chance.choice(keys), chance.choice(VALUES), chance.choice(VALUES)
    return chance.choice(
        [
            (*base(verb), f"--{key}={value}"),
            (*base(verb), f"--{key}={value}"),
            (*base(verb), f"--{key}={value}"),
            (*base(verb), f"--{key}", value),
            (*base(verb), f"--{key}={value}", f"--{key}={other}"),
            (*base(verb), f"--{key}"),
            (*base(verb), f"--{key}+={value}"),
            (*base(verb), f"--{key}.x={value}"),
            (*base(verb), f"--{key}={value}", f"--{chance.choice(keys)}={other}"),
            ("--config", chance.choice(FILES)),
            (f"--config={chance.choice(FILES)}", f"--{key}={value}"),
            (*base(verb), *base(verb)),
            (f"--{key}={value}", *base(verb)),
            (value, *base(verb)),
            (*base(verb), "--print_config", value),
            (f"--{key}.help",),
            ("--help", value),
        ]
    )


def make_fifo(folder: Path) -> None:
    import os

    os.mkfifo(folder / "fifo")


def all_cases(seed: int, per_verb: int) -> Iterator[Case]:
    """Cases of every command."""
    for verb in SUBCOMMANDS:
        chance = random.Random(f"{seed} {verb}")
        keys = sorted(keys_of(verb))
        for number in range(per_verb if keys else per_verb // 4):
            refused = number % 4 == 0 or verb in ONLY_REFUSED or not keys
            words = (unknown_words if refused else words_of)(verb, keys, chance)
            if any("\0" in word for word in words):
                continue
            yield Case(
                name=f"{verb} {seed} {number} {ascii(words)[:90]}",
                verb=verb,
                words=words,
                before=make_fifo,
                anywhere=True,
                expects="refused" if refused else "free",
            )


def test_a_sample_of_words(faults: Harness) -> None:
    faults.run_all(every(list(all_cases(1, 80)), 12), "command_words")


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 4))
def test_words(faults: Harness, seed: int) -> None:
    faults.run_all(all_cases(seed, 28 * 2), "command_words")
