"""Trained weights inside the package: a name, such as jcm-small, wherever a checkpoint is given; no download.

climax_hpc/pretrained/NAME/
    SHA256SUMS.json     sha256 of every other file, written last
    model.safetensors   weights, model config and normalisation, as `climax-hpc convert` writes them
    scores.json         scores of these weights on held-out data
    training.json       settings, data, time and losses of the training
    model_card.md       what they are for, from the numbers of the two files before
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import write_together
from climax_hpc.utils.files import json_writer, make_folder, read_json, sha256

FOLDER = Path(__file__).parent.parent / "pretrained"
SUMS, MODEL, SCORES, TRAINING, CARD = (
    "SHA256SUMS.json", "model.safetensors", "scores.json", "training.json", "model_card.md",
)  # fmt: skip
FILES = (MODEL, SCORES, TRAINING, CARD)


def packaged_names() -> list[str]:
    """Names of the weights in the package."""
    return sorted(sums.parent.name for sums in FOLDER.glob(f"*/{SUMS}"))


def located(path: str | Path) -> Path:
    """The file of packaged weights where `path` is their name, verified; any other path as it is.

    A file or folder of that name, seen from the working directory, comes first, as with `--config`.

    Raises:
        UserError: the packaged weights are damaged.
    """
    if str(path) not in packaged_names() or os.path.lexists(path):
        return Path(path)
    folder = FOLDER / str(path)
    verify_packaged(folder)
    return folder / MODEL


def advice() -> str:
    """For messages about a checkpoint that is not there: `, or the name of weights in the package: jcm-small`."""
    names = packaged_names()
    return f", or the name of weights in the package: {', '.join(names)}" if names else ""


def verify_packaged(folder: Path) -> None:
    """Check that a folder of packaged weights holds exactly its files, with their recorded sha256.

    Raises:
        UserError: names the first file that is missing or different.
    """
    sums = read_json(folder / SUMS, "the hashes of packaged weights")
    if not isinstance(sums, dict) or sums.keys() != set(FILES):
        raise _damaged(folder / SUMS, f"does not list {', '.join(FILES)}")
    for name, digest in sums.items():
        if not (folder / name).is_file():
            raise _damaged(folder / name, "is missing")
        if sha256(folder / name) != digest:
            raise _damaged(folder / name, "differs from its sha256")


def _damaged(path: Path, state: str) -> UserError:
    return UserError(f"packaged weights: {path} {state}; install climax_hpc again")


def write_packaged(folder: Path, writes: Mapping[str, Callable[[Path], None]]) -> None:
    """Write a folder of packaged weights: `writes` has a writer for every file but the hashes.

    Without its hashes a folder is none of packaged weights, so they are removed first and written last.

    Raises:
        UserError: the folder cannot be made.
        OSError: what the system refused.
    """
    assert writes.keys() == set(FILES)
    make_folder(folder, "--output")
    (folder / SUMS).unlink(missing_ok=True)
    write_together({folder / name: write for name, write in writes.items()})
    write_together({folder / SUMS: json_writer({name: sha256(folder / name) for name in FILES})})
