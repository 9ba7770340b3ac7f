"""Edits of every config: keys unknown, missing, twice, of other types and sizes; damage of the text."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.config.parser import shipped_configs

from .case import Action, Case
from .harness import Harness, every
from .json_edits import edits
from .tiny_chain import CONFIGS

VERB_OF = {"pack_fine": "pack", "downscale": "finetune"}
QUICK = [name for name in CONFIGS if name != "doctor"]  # doctor measures for seconds whatever it is given
LONG_RUNS = ("at train", "at train.steps")  # valid, and trains for long
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
TEXT: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "blanks": lambda text: "  \n\t\n",
    "comment alone": lambda text: "# nothing\n",
    "null": lambda text: "null\n",
    "list": lambda text: "- a\n- b\n",
    "scalar": lambda text: "x",
    "number": lambda text: "17",
    "cut": lambda text: text[: len(text) * 2 // 3] + ": [",
    "tabs": lambda text: text.replace("  ", "\t") + "\tx: 1\n",
    "first key twice": lambda text: text + text.splitlines()[0] + "\n",
    "text twice": lambda text: text + text,
    "two documents": lambda text: f"{text}---\n{text}",
    "end mark": lambda text: f"{text}...\nx",
    "Python object": lambda text: "x: !!python/object/apply:os.system [touch out.pwned]\n" + text,
    "unknown tag": lambda text: text.replace(": ", ": !x ", 1),
    "binary tag": lambda text: text.replace(": ", ": !!binary ", 1),
    "set tag": lambda text: text + "z: !!set {a, b}\n",
    "date": lambda text: text + "z: 2001-01-01\n",
    "bomb": lambda text: BOMB + text,
    "anchor to itself": lambda text: "z: &z [*z]\n" + text,
    "merge of itself": lambda text: "z: &z\n  <<: *z\n" + text,
    "merge of a number": lambda text: "<<: 3\n" + text,
    "unknown alias": lambda text: "z: *nowhere\n" + text,
    "unclosed quote": lambda text: text + "z: 'x\n",
    "unclosed bracket": lambda text: text + "z: [1, 2\n",
    "many brackets": lambda text: "z: " + "[" * 5000 + "\n" + text,
    "many braces closed": lambda text: "z: " + "{a: " * 900 + "1" + "}" * 900 + "\n" + text,
    "deep nesting": lambda text: "".join(f"{' ' * i}a:\n" for i in range(1500)),
    "20 000 keys": lambda text: text + "".join(f"k{i}: {i}\n" for i in range(20_000)),
    "2 MB": lambda text: text + "# " + "x" * (2 << 20) + "\n",
    "long line": lambda text: "z: " + "x" * 500_000 + "\n" + text,
    "long key": lambda text: "k" * 100_000 + ": 1\n" + text,
    "byte order mark": lambda text: "\ufeff" + text,
    "UTF-16": lambda text: text.encode("utf-16"),
    "Latin-1": lambda text: (text + "z: ä\n").encode("latin-1"),
    "NUL": lambda text: text.encode() + b"\0",
    "ESC": lambda text: text.encode() + b"z: \x1b[31m\n",
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "old Mac line ends": lambda text: text.replace("\n", "\r"),
    "key of a list": lambda text: "? [a, b]\n: 1\n" + text,
    "key of a number": lambda text: "1: 1\n" + text,
    "key of null": lambda text: "~: 1\n" + text,
    "key of true": lambda text: "true: 1\n" + text,
    "empty key": lambda text: "'': 1\n" + text,
    "dotted key": lambda text: "train.steps: 1\n" + text,
    "key config": lambda text: "config: pack.yaml\n" + text,
    "key print_config": lambda text: "print_config: true\n" + text,
    "key help": lambda text: "help: true\n" + text,
    "number of 5000 digits": lambda text: "z: " + "1" * 5000 + "\n" + text,
    "octal": lambda text: "z: 0123\n" + text,
    "base 60": lambda text: "z: 1:30:00\n" + text,
    "lone surrogate": lambda text: 'z: "\\ud800"\n' + text,
    "random bytes": lambda text: random.Random(1).randbytes(3000),
}  # fmt: skip


def write(name: str, content: str | bytes) -> Action:
    def write_it(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode("utf-8", errors="surrogatepass")
        (folder / name).write_bytes(data)

    return write_it


def case_of(name: str, what: str, content: str | bytes, expects: str) -> Case:
    return Case(
        name=f"{name}.yaml {what}",
        verb=VERB_OF.get(name, name),
        words=("--config", f"{name}.yaml"),
        damage=write(f"{name}.yaml", content),
        expects=expects,
        anywhere=True,
    )


def text_cases() -> Iterator[Case]:
    """Every damage of the text, for two verbs each."""
    for number, (what, change) in enumerate(TEXT.items()):
        for name in (QUICK[number % len(QUICK)], QUICK[(number + 5) % len(QUICK)]):
            text = yaml.safe_dump(dict(CONFIGS[name]), sort_keys=False)
            yield case_of(name, f"text: {what}", change(text), "free")


def value_cases(seed: int, count: int) -> Iterator[Case]:
    """Values and keys of the tiny configs, changed at random places (json_edits.py)."""
    for name in QUICK:
        text = json.dumps(CONFIGS[name])
        for number, edit in enumerate(list(edits(text, seed, count + 12))[12:]):
            if edit.name.endswith(LONG_RUNS):
                continue
            content = yaml.safe_dump(json.loads(edit.text), sort_keys=False)
            unknown = edit.name.startswith(("renamed", "key beside")) and not _free_keys(edit.name)
            yield case_of(name, f"{seed} {number}: {edit.name}", content, "refused" if unknown else "free")


def _free_keys(name: str) -> bool:
    """True where any key is allowed: labels of models and runs, axes of a sweep."""
    return any(f"at {section}." in name for section in ("models", "runs", "sweep"))


def shipped_cases(seed: int) -> Iterator[Case]:
    """Shipped configs with an unknown key, refused before they look for data."""
    chance = random.Random(seed)
    for name in shipped_configs():
        settings = yaml.safe_load((Path(__file__).parents[3] / f"climax_hpc/configs/{name}.yaml").read_text())
        for verb in ("pack", "pretrain", "finetune", "evaluate", "report"):
            changed: dict[str, Any] = copy.deepcopy(settings)
            sections = [changed, *(v for k, v in changed.items() if isinstance(v, dict) and k in ("data", "train"))]
            chance.choice(sections)[chance.choice(["unknown", "Input", "x.y", "übung", "a b"])] = 1
            case = case_of(name, f"{verb} {seed}: unknown key", yaml.safe_dump(changed), "refused")
            yield Case(**(vars(case) | {"verb": verb}))


def all_cases(seed: int, count: int) -> list[Case]:
    return [*text_cases(), *value_cases(seed, count), *shipped_cases(seed)]


def test_a_sample_of_configs(faults: Harness) -> None:
    faults.run_all(every(all_cases(1, 40), 8), "yaml_edits")


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_configs(faults: Harness, seed: int) -> None:
    faults.run_all(all_cases(seed, 40), "yaml_edits")
