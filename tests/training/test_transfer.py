"""Fine-tuning from checkpoints with other variables, grids, output modes: what is copied, initialised, refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.errors import UserError
from climax_hpc.model.positions import resize_positions

from .. import synthetic
from .conftest import TWO_SOURCES, train_here

# A rate too small to change a float32: what comes out is what training started from.
STILL = {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0}


def tuned(settings: dict[str, Any], folder: Path, **model: Any) -> Path:
    """Fine-tune for one step with transfer; returns the run folder."""
    changed = settings | {"optimizer": STILL, "model": settings["model"] | model}
    changed["train"] = settings["train"] | {"steps": 1}
    words = ("--run_folder", str(folder / "tuned"), "--checkpoint", settings["run_folder"], "--transfer", "true")
    train_here(changed, folder, *words, verb="finetune")
    return folder / "tuned"


def test_new_variables_and_a_new_grid(
    settings: dict[str, Any], tmp_path: Path, make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(settings, tmp_path)
    old = load_checkpoint(settings["run_folder"])
    settings["data"] = settings["data"] | {"dataset": str(make_dataset(shape=(12, 24)))}
    names = ["temperature_850", "geopotential_500", "latitude", "2m_temperature"]
    run = tuned(settings, tmp_path, variables=names, height=12, width=24)
    assert "transfer: 3 variables kept; 1 new (temperature_850); 3 dropped" in capsys.readouterr().out
    new, account = load_checkpoint(run), json.loads((run / "transfer.json").read_text())
    assert account["new_variables"] == ["temperature_850"]
    assert account["grid"] == [[8, 16], [12, 24]]
    assert account["parameters_kept"] + account["parameters_new"] == sum(t.numel() for t in new.weights.values())
    here = [1, 2, 3]
    there = [old.metadata.config.variables.index(names[i]) for i in here]
    for name in ("aggregator.patch_weight", "aggregator.patch_bias", "aggregator.var_embed"):
        assert torch.equal(new.weights[name][here], old.weights[name][there])
    # The last layer has the variable fastest: 4 pixels of a patch, then the variable.
    for name in ("head.4.weight", "head.4.bias"):
        rows = [w.weights[name].unflatten(0, (4, -1)) for w in (new, old)]
        assert torch.equal(rows[0][:, here], rows[1][:, there])
    # The new variable's embedding is near none of those that the checkpoint started from.
    embeddings = torch.nn.functional.normalize(old.weights["aggregator.var_embed"], dim=1)
    one = torch.nn.functional.normalize(new.weights["aggregator.var_embed"][0], dim=0)
    assert (embeddings @ one).max() < 0.99
    assert torch.equal(new.weights["pos_embed"], resize_positions(old.weights["pos_embed"], (4, 8), (6, 12)))
    shared = [n for n in old.weights if n.startswith(("blocks", "norm", "head.0", "head.2", "lead", "aggregator.in"))]
    assert all(torch.equal(new.weights[n], old.weights[n]) for n in shared)
    assert new.metadata.normalisation.mean["2m_temperature"] == old.metadata.normalisation.mean["2m_temperature"]


def write_elsewhere(folder: Path) -> Path:
    """The data set of the settings, written anew: `make_dataset` would give a copy of the first."""
    specs = {name: replace(synthetic.SyntheticSource(), **own) for name, own in TWO_SOURCES.items()}
    return synthetic.write_dataset(folder, specs)


def test_cells_elsewhere_need_transfer(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(settings, tmp_path)
    grid = synthetic.make_grid((8, 16))
    half_a_cell = replace(grid, lon=grid.lon + 11.25, lon_bnds=grid.lon_bnds + 11.25)
    monkeypatch.setattr(synthetic, "make_grid", lambda shape: half_a_cell)
    settings["data"] = settings["data"] | {"dataset": str(write_elsewhere(tmp_path / "elsewhere"))}
    words = ("--run_folder", str(tmp_path / "tuned"), "--checkpoint", settings["run_folder"])
    with pytest.raises(UserError, match=r"but other positions.*set transfer: true to move the model"):
        train_here(settings, tmp_path, *words, verb="finetune")
    assert (tuned(settings, tmp_path) / "checkpoints").is_dir()


def test_another_output_mode_initialises_last_layer_and_normalisation(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    run = tuned(settings, tmp_path, output_mode="full")
    old, new = load_checkpoint(settings["run_folder"]), load_checkpoint(run)
    assert json.loads((run / "transfer.json").read_text())["output_mode"] == ["anomaly", "full"]
    assert not torch.equal(new.weights["head.4.weight"], old.weights["head.4.weight"])
    assert torch.equal(new.weights["head.2.weight"], old.weights["head.2.weight"])
    assert new.metadata.normalisation.mode == "full"


@pytest.mark.parametrize(("started", "asked"), [("scaled", "climax"), ("climax", "scaled")])
def test_new_variables_are_drawn_as_the_checkpoint_was(
    settings: dict[str, Any], tmp_path: Path, started: str, asked: str
) -> None:
    settings["train"] |= {"steps": 1, "checkpoint_every": 1}
    settings["model"] |= {"init": started}
    train_here(settings, tmp_path)
    names = [*settings["model"]["variables"], "temperature_850"]
    new = load_checkpoint(tuned(settings, tmp_path, variables=names, init=asked))
    row = {name: new.weights[f"aggregator.{name}"][-1] for name in ("patch_weight", "var_embed")}
    weight, scale = {"climax": (0.02, 1.0), "scaled": (1 / 2, 0.1)}[started]
    assert row["patch_weight"].std().item() == pytest.approx(weight, rel=0.3)
    assert row["var_embed"].square().mean().sqrt().item() == pytest.approx(scale / 2**0.5, rel=1e-3)
    assert new.metadata.config.init == started


@pytest.mark.parametrize("patch", [1, 4])
def test_another_patch_keeps_tokens_and_forecasts_of_uniform_fields(
    settings: dict[str, Any], tmp_path: Path, patch: int
) -> None:
    train_here(settings, tmp_path)
    run = tuned(settings, tmp_path, patch=patch)
    old, new = (load_checkpoint(folder) for folder in (settings["run_folder"], run))
    assert json.loads((run / "transfer.json").read_text())["patch"] == [2, patch]
    weights = [one.weights["aggregator.patch_weight"] for one in (old, new)]
    assert weights[1].shape[-1] == patch
    torch.testing.assert_close(weights[1].sum((2, 3)), weights[0].sum((2, 3)))
    for name in ("head.4.weight", "head.4.bias"):
        pixels = [one.weights[name].unflatten(0, (edge**2, -1)) for one, edge in ((old, 2), (new, patch))]
        torch.testing.assert_close(pixels[1].mean(0), pixels[0].mean(0))
    # A patch of 4 has each of the 4 pixels four times: the two upper rows of pixels, then the two lower ones.
    if patch == 4:
        rows = new.weights["head.4.bias"].unflatten(0, (4, 4, -1))
        upper_left = old.weights["head.4.bias"].unflatten(0, (2, 2, -1))[0, 0]
        assert all(torch.equal(rows[y, x], upper_left) for y in (0, 1) for x in (0, 1))
    same = [name for name in old.weights if name.startswith(("blocks", "norm", "head.0"))]
    assert same
    assert all(torch.equal(new.weights[name], old.weights[name]) for name in same)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"embed_dim": 32}, r"embed_dim = 16, the config says model.embed_dim = 32: set model.embed_dim as in the ch"),
        ({"depth": 3}, r"has depth = 2, the config says model.depth = 3: .* checkpoint: null$"),
        ({"depth": 3, "heads": 1}, r"has depth = 2, .* checkpoint: null; other values than there: model.heads$"),
        ({"variables": ["temperature_850"]}, r"has none of model.variables \(temperature_850\)"),
    ],
)
def test_what_cannot_be_transferred_is_refused(
    settings: dict[str, Any], tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    settings["train"] |= {"steps": 1, "checkpoint_every": 1}
    train_here(settings, tmp_path)
    with pytest.raises(UserError, match=message):
        tuned(settings, tmp_path, **model)
    assert not (tmp_path / "tuned").exists()


def test_transfer_must_be_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"steps": 1, "checkpoint_every": 1}
    train_here(settings, tmp_path)
    settings["model"]["variables"] = settings["model"]["variables"][:-1]
    words = ("--run_folder", str(tmp_path / "tuned"), "--checkpoint", settings["run_folder"])
    with pytest.raises(UserError, match="add transfer: true to take over what fits"):
        train_here(settings, tmp_path, *words, verb="finetune")
    with pytest.raises(UserError, match="transfer needs checkpoint"):
        train_here(settings, tmp_path, *words[:2], "--transfer", "true", verb="finetune")
