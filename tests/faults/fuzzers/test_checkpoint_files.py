"""SHA256SUMS and every file of a checkpoint changed, cut, swapped, linked, added; headers of converted files."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from .case import Case, nothing
from .harness import Harness, every
from .test_json_edits import RESUME, checkpoint_of, interrupt

SUMS = "SHA256SUMS.json"
READERS = ("convert", "predict", "evaluate", "finetune", "resume")
# Runs touch when it is unpickled: a file that no command may load.
PICKLE = b"cposix\nsystem\n(S'touch pwned'\ntR."
Change = Callable[[Path, random.Random], None]


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(max(1, len(data)))])


def grow(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.choice([1, 8, 4096])))


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def become(kind: str) -> Change:
    def change(path: Path, chance: random.Random) -> None:
        content = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/etc/hostname")
        elif kind == "link to the same":
            path.with_name("elsewhere").write_bytes(content)
            path.symlink_to("elsewhere")
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "empty":
            path.touch()
        elif kind == "pickle":
            path.write_bytes(PICKLE)
        elif kind == "zeros":
            path.write_bytes(bytes(len(content)))

    return change


def swap(path: Path, chance: random.Random) -> None:
    """The file of the other checkpoint of the run."""
    others = [p for p in path.parents[1].parent.rglob(path.name) if p != path]
    if others:
        shutil.copy(chance.choice(others), path)


FILE_CHANGES: dict[str, Change] = {
    "flip": flip, "cut": cut, "grown": grow, "removed": remove, "of the other checkpoint": swap,
    **{kind: become(kind) for kind in ("folder", "link", "link to the same", "loop", "fifo", "empty", "pickle",
        "zeros")},
}  # fmt: skip


def change_sums(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = checkpoint_of(folder) / SUMS
        sums = json.loads(path.read_text())
        first, *_, last = sums
        pickled = next(n for n in sums if n.startswith("deepspeed/"))
        zeros = "0" * 64
        changed = {
            "empty": {}, "list": list(sums), "null": None, "one name": {first: sums[first]},
            "no weights": {n: d for n, d in sums.items() if n != "weights.safetensors"},
            "no engine state": {n: d for n, d in sums.items() if not n.startswith("deepspeed/")},
            "upper case": {n: d.upper() for n, d in sums.items()},
            "short digest": sums | {first: sums[first][:-1]}, "digest null": sums | {first: None},
            "digest number": sums | {first: 1}, "digest list": sums | {first: [sums[first]]},
            "digest of another": sums | {first: sums[last]}, "order": dict(list(sums.items())[::-1]),
            "name up": sums | {"../../../data/manifest.json": zeros},
            "absolute name": sums | {"/etc/hostname": zeros}, "empty name": sums | {"": zeros},
            "name .": sums | {".": zeros}, "control": sums | {"a\n\x1b[31m": zeros},
            "long name": sums | {"x" * 5000: zeros}, "more": sums | {"extra.txt": zeros},
            "folder": sums | {"deepspeed": zeros}, "sums themselves": sums | {SUMS: zeros},
            "pickle unlisted": {n: d for n, d in sums.items() if n != pickled},
        }[name]  # fmt: skip
        path.write_text(json.dumps(changed))

    return change


SUMS_CHANGES = (
    "empty", "list", "null", "one name", "no weights", "no engine state", "upper case", "short digest", "digest null",
    "digest number", "digest list", "digest of another", "order", "name up", "absolute name", "empty name", "name .",
    "control", "long name", "more", "folder", "pickle unlisted", "sums themselves",
)  # fmt: skip
EXTRA = (
    "deepspeed/mp_rank_01_model_states.pt", "deepspeed/bf16_zero_pp_rank_7_mp_rank_00_optim_states.pt", "extra.pkl",
    "deepspeed/zero_pp_rank_0_mp_rank_00_optim_states.pt", "deepspeed/inner/mp_rank_00_model_states.pt",
    "pytorch_model.bin", "deepspeed/latest", ".hidden.pt", "deepspeed/expert_0_model_states.pt", "__init__.py",
    "sitecustomize.py",
)  # fmt: skip
LATEST = (
    "", " ", "\n", "..", "../..", "/etc", "step_00000002", "step_00000002\nstep_00000004", "step_99999999", "x" * 5000,
    "a\0b", "\x1b[31m", "step_00000004/", "./step_00000004", "step_00000004 ", "STEP_00000004", "\udcff", "latest", "*",
)  # fmt: skip


def case(name: str, number: int, damage: Callable[[Path], None], **more: object) -> Case:
    """A case for one of the readers of a checkpoint in turn."""
    verb = READERS[number % len(READERS)]
    resumed = verb == "resume"
    return Case(
        name=f"{verb} {name}",
        verb="pretrain" if resumed else verb,
        words=RESUME if resumed else (),
        before=interrupt if resumed else nothing,
        damage=damage,
        **more,  # type: ignore[arg-type]
    )


def file_cases(chain: Path, rounds: int) -> Iterator[Case]:
    names = sorted(
        str(path.relative_to(checkpoint_of(chain))) for path in checkpoint_of(chain).rglob("*") if path.is_file()
    )
    number = 0
    for turn in range(rounds):
        for name in names:
            for what, change in FILE_CHANGES.items():
                number += 1
                yield case(f"{name} {what} {turn}", number, partial(_change, name, change, f"{name}{what}{turn}"))


def _change(name: str, change: Change, seed: str, folder: Path) -> None:
    change(checkpoint_of(folder) / name, random.Random(seed))


def other_cases() -> Iterator[Case]:
    for shift in range(len(READERS)):
        for number, name in enumerate(SUMS_CHANGES):
            yield case(f"sums {name}", number + shift, change_sums(name))
        for number, name in enumerate(EXTRA):
            yield case(f"extra {name}", number + shift, partial(_add, name))
    for number, text in enumerate(LATEST * 2):
        yield case(f"latest {ascii(text)[:30]} {number}", number, partial(_latest, text), expects=_expected(text))
    for number, kind in enumerate(("folder", "link", "loop", "fifo", "empty", "pickle", "zeros")):
        yield case(f"latest is {kind}", number, partial(_latest_is, kind))


def _expected(text: str) -> str:
    return "free" if text in ("step_00000002", "") else "same"


def _add(name: str, folder: Path) -> None:
    path = checkpoint_of(folder) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PICKLE)


def _latest(text: str, folder: Path) -> None:
    (folder / "run/checkpoints/latest").write_text(text, errors="surrogateescape")


def _latest_is(kind: str, folder: Path) -> None:
    become(kind)(folder / "run/checkpoints/latest", random.Random(0))


def safetensors_cases(count: int) -> Iterator[Case]:
    """The file of `convert`: bits of header and weights, and sizes that a reader might allocate."""
    words = {"predict": ("--config", "predict.yaml", "--models", "{model: model.safetensors}"),
             "convert": ("model.safetensors", "--output", "out.safetensors"),
             "finetune": ("--config", "finetune.yaml", "--checkpoint", "model.safetensors")}  # fmt: skip
    changes = {"flip": flip, "cut": cut, "grown": grow, "flip in the header": partial(flip_before, 2000),
               "header size": huge_header, "empty": become("empty"), "pickle": become("pickle")}  # fmt: skip
    for number in range(count):
        verb, arguments = list(words.items())[number % 3]
        what, change = list(changes.items())[number % len(changes)]
        yield Case(
            name=f"{verb} model.safetensors {what} {number}",
            verb=verb,
            words=arguments,
            damage=partial(_converted, change, number),
        )


def _converted(change: Change, number: int, folder: Path) -> None:
    change(folder / "model.safetensors", random.Random(number))


def flip_before(end: int, path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(min(end, len(data)))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def huge_header(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(chance.choice([2**63 - 1, 2**40, 0, 3]).to_bytes(8, "little") + data[8:])


def all_cases(chain: Path, rounds: int) -> list[Case]:
    return [*file_cases(chain, rounds), *other_cases(), *safetensors_cases(60 * rounds)]


def test_a_sample_of_checkpoints(faults: Harness) -> None:
    faults.run_all(every(all_cases(faults.chain, 1), 6), "checkpoint_files")


@pytest.mark.faults
def test_checkpoints(faults: Harness) -> None:
    faults.run_all(all_cases(faults.chain, 2), "checkpoint_files")
