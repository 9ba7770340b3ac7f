"""Edits of manifest, model, training, evaluation, state and pairs (JSON), for all their readers."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from climax_hpc.utils.files import sha256

from .case import Case, nothing
from .harness import Harness, every
from .json_edits import Edit, edits
from .results import dataset_content

PACK_AGAIN = ("--config", "pack.yaml", "--output", "data")
RESUME = ("--config", "pretrain.yaml", "--run_folder", "run")
DOWNSCALE = ("--config", "downscale.yaml")
OF_DATA = {
    "loader": (), "verify": (), "inspect": (), "pair": (), "pretrain": (), "predict": (), "evaluate": (),
    "pack": PACK_AGAIN,
}  # fmt: skip
OF_CHECKPOINT = {"convert": (), "predict": (), "evaluate": (), "finetune": ()}


def interrupt(folder: Path) -> None:
    """Take the run back to its first checkpoint, so that the next command resumes it."""
    checkpoints = folder / "run/checkpoints"
    last, first = sorted(checkpoints.glob("step_*"))[::-1]
    shutil.rmtree(last)
    (checkpoints / "latest").write_text(first.name + "\n")
    metrics = folder / "run/metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))


def checkpoint_of(folder: Path) -> Path:
    checkpoints = folder / "run/checkpoints"
    return checkpoints / (checkpoints / "latest").read_text().strip()


def seal(checkpoint: Path) -> None:
    """Write the hashes of a checkpoint's files anew, as someone does who edits it on purpose."""
    path = checkpoint / "SHA256SUMS.json"
    sums = json.loads(path.read_text())
    path.write_text(json.dumps({name: sha256(checkpoint / name) for name in sums}))


def cases_of(
    path: str, text: str, verbs: dict[str, tuple[str, ...]], seed: int, count: int, *, hashed: bool = False
) -> Iterator[Case]:
    """Edits of one file, for its readers in turn; `hashed`: no edit at all may change a result."""
    for number, edit in enumerate(edits(text, seed, count)):
        verb, words = list(verbs.items())[number % len(verbs)]
        yield Case(
            name=f"{path} {seed} {number} {verb}: {edit.name}",
            verb=verb,
            words=words,
            before=interrupt if words == RESUME else nothing,
            damage=_write(path, edit, sealed=not hashed),
            call=(lambda folder: dataset_content(folder / "data")) if verb == "loader" else None,
            expects="refused" if words == PACK_AGAIN else "same" if hashed or edit.wrong_type else "free",
        )


def _write(path: str, edit: Edit, *, sealed: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        target = checkpoint_of(folder) / path if path in ("model.json", "training.json") else folder / path
        target.write_text(edit.text, encoding="utf-8", errors="surrogatepass")
        if sealed and (target.parent / "SHA256SUMS.json").exists():
            seal(target.parent)

    return write


def all_cases(chain: Path, scale: float) -> dict[str, list[Case]]:
    """File -> its cases; `scale` 1 are those of `make faults`."""
    checkpoint = checkpoint_of(chain)

    def of(path: str, text: str, verbs: dict[str, tuple[str, ...]], count: int, *, hashed: bool = False) -> list[Case]:
        return list(cases_of(path, text, verbs, seed=12, count=round(count * scale), hashed=hashed))

    return {
        "manifest": of("data/manifest.json", (chain / "data/manifest.json").read_text(), OF_DATA, 800, hashed=True),
        "model": of("model.json", (checkpoint / "model.json").read_text(), OF_CHECKPOINT, 320),
        "training": of("training.json", (checkpoint / "training.json").read_text(), {"pretrain": RESUME}, 100),
        "evaluation": of(
            "evaluation/evaluation.json", (chain / "evaluation/evaluation.json").read_text(), {"report": ()}, 200
        ),
        "state": of("run/state.json", (chain / "run/state.json").read_text(), {"status": (), "pretrain": RESUME}, 120),
        "provenance": of("run/provenance.json", (chain / "run/provenance.json").read_text(), {"pretrain": RESUME}, 60),
        "pairs": of("pairs.json", (chain / "pairs.json").read_text(), {"finetune": DOWNSCALE}, 100),
    }


def test_a_sample_of_edits(faults: Harness) -> None:
    faults.run_all(every([case for cases in all_cases(faults.chain, 1).values() for case in cases], 8), "json_edits")


@pytest.mark.faults
@pytest.mark.parametrize("file", ["manifest", "model", "training", "evaluation", "state", "provenance", "pairs"])
def test_edits(faults: Harness, file: str) -> None:
    faults.run_all(all_cases(faults.chain, 1)[file], "json_edits")
