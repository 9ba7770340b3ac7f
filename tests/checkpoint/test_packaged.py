"""Weights in the package: found by name by every command and the API, without network, and refused when damaged."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import climax_hpc
from climax_hpc.checkpoint import packaged, safetensors_file
from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.training import DataConfig, FinetuneConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.tasks.forecast import starting_weights
from climax_hpc.utils.files import text_writer

from ..synthetic import write_checkpoint

NAME = "tiny-planet"


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset()


@pytest.fixture
def folder(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packaged weights named NAME, in place of those of the package; the working directory is empty."""
    stored = load_checkpoint(write_checkpoint(tmp_path / "run" / "checkpoints", dataset, mode="full"))
    made = tmp_path / "package" / NAME
    writes: dict[str, Callable[[Path], None]] = {name: text_writer(f"text of {name}") for name in packaged.FILES}
    writes[packaged.MODEL] = lambda path: safetensors_file.write(path, stored.metadata.to_dict(), stored.weights)
    packaged.write_packaged(made, writes)
    monkeypatch.setattr(packaged, "FOLDER", made.parent)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return made


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_api_takes_a_name_without_network(folder: Path, offline: None) -> None:
    model = climax_hpc.ClimaX.from_pretrained(NAME)
    expected = load_checkpoint(folder / packaged.MODEL)
    found = model.checkpoints[NAME]
    assert found.path == folder / packaged.MODEL
    assert found.metadata == expected.metadata
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_every_command_takes_a_name(
    folder: Path, dataset: Path, make_evaluation: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    stored = load_checkpoint(folder / packaged.MODEL)
    config = FinetuneConfig(
        run_folder="run", checkpoint=NAME, data=DataConfig(dataset=str(dataset)), model=stored.metadata.config
    )
    start = starting_weights(config)
    assert start is not None
    assert start.weights_sha256 == stored.weights_sha256
    scored = make_evaluation(dataset, run_folder=str(tmp_path / "scored"), models={"a": NAME}, resamples=0)
    evaluate(scored)
    entry = Scorecard.load(tmp_path / "scored").content["models"]["a"]
    assert entry["weights_sha256"] == stored.weights_sha256
    words = ["--models", f'{{"a": "{NAME}"}}', "--input", str(dataset), "--source", "JCM-C", "--lead_hours", "[6]"]
    run(["predict", *words, "--period", '["2004-01-03", "2004-01-03"]', "--output", str(tmp_path / "out")])
    assert list((tmp_path / "out").glob("*.nc"))
    run(["convert", NAME, "--output", str(tmp_path / "copy.safetensors")])
    assert load_checkpoint(tmp_path / "copy.safetensors").metadata == stored.metadata


def test_a_folder_of_that_name_comes_first(folder: Path, dataset: Path) -> None:
    mine = write_checkpoint(Path(NAME) / "checkpoints", dataset, mode="full", seed=1)
    assert load_checkpoint(NAME).path == mine


def test_an_unknown_name_is_one_line_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UserError, match=rf"^no checkpoint in tiny-moon: .*, or the name .* package: {NAME}$"):
        climax_hpc.ClimaX.from_pretrained("tiny-moon")


def test_a_package_without_weights_offers_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"finetune that has one$"):
        load_checkpoint("tiny-moon")


@pytest.mark.parametrize("name", packaged.FILES)
def test_a_damaged_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} differs from its sha256; install climax_hpc again"):
        load_checkpoint(NAME)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing; install climax_hpc again"):
        load_checkpoint(NAME)


def test_incomplete_sums_are_refused(folder: Path) -> None:
    (folder / packaged.SUMS).write_text("{}")
    with pytest.raises(UserError, match=r"SHA256SUMS\.json does not list model\.safetensors"):
        load_checkpoint(NAME)


def test_writing_that_was_interrupted_leaves_no_weights(folder: Path) -> None:
    """Until the hashes are written, which is last, there is nothing of that name."""
    writes: dict[str, Callable[[Path], None]] = {name: text_writer("new") for name in packaged.FILES}

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packaged.write_packaged(folder, writes | {packaged.CARD: killed})
    assert packaged.packaged_names() == []
    packaged.write_packaged(folder, writes)
    assert packaged.packaged_names() == [NAME]
    assert sorted(path.name for path in folder.iterdir()) == sorted((*packaged.FILES, packaged.SUMS))


def test_the_verb_lists_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["weights"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{NAME}  ")
    assert "M parameters, output mode full, grid " in printed
    assert str(folder / packaged.CARD) in printed
