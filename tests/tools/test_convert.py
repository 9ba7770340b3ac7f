"""`climax-hpc convert`: run folders and original ClimaX files to a safetensors file that other commands read."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import main
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.kernels.testing import relative_error
from climax_hpc.model import ClimaXNetwork
from climax_hpc.model.positions import resize_positions
from climax_hpc.model.reference import TextbookClimaX

from ..checkpoint.original import OriginalClimaX, lightning_file
from .convert_command import convert, refused

NAMES = [v.name for v in CLIMAX_48]
TOLERANCE = 1e-5  # issue 5, point 2


@pytest.fixture(scope="module")
def original() -> OriginalClimaX:
    return OriginalClimaX(48, (8, 16), 2, 32, 2, 16).eval()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """ClimaX's pair of files, in its spelling of `latitude`."""
    folder = tmp_path / "units"
    folder.mkdir()
    names = ["lattitude" if name == "latitude" else name for name in NAMES]
    np.savez(folder / "normalize_mean.npz", **{name: np.array([i]) for i, name in enumerate(names)})
    np.savez(folder / "normalize_std.npz", **{name: np.array([i + 0.5]) for i, name in enumerate(names)})
    return folder


@pytest.mark.parametrize("form", ["alone", "parallel", "channel"])
def test_original_gives_the_same_outputs(original: OriginalClimaX, units: Path, tmp_path: Path, form: str) -> None:
    source = lightning_file(
        original, tmp_path / "original.ckpt", parallel=form == "parallel", channel=form == "channel"
    )
    output = tmp_path / "model.safetensors"
    convert(source, "--output", output, "--normalisation", units)

    loaded = load_checkpoint(output)
    config = loaded.metadata.config
    assert (config.height, config.width, config.patch, config.depth, config.heads) == (8, 16, 2, 2, 16)
    assert (config.mlp_ratio, config.decoder_depth, config.output_mode) == (4, 2, "full")
    assert config.init == "climax"
    assert list(config.variables) == NAMES
    ids = [3, 0, 47, 20, 2]
    chosen = [NAMES[i] for i in ids]
    x_BVHW, lead = torch.randn(3, len(ids), 8, 16), torch.tensor([6.0, 72.0, 168.0])
    with torch.no_grad():
        expected_BOHW = original(x_BVHW, lead, ids)[:, [40, 5]]
        for form_of_model in (ClimaXNetwork, TextbookClimaX):
            model = form_of_model(config).eval()
            model.load_state_dict(loaded.weights)
            given_BOHW = model(x_BVHW, lead, chosen, [NAMES[40], NAMES[5]])
            assert relative_error(given_BOHW, expected_BOHW) < TOLERANCE
    assert loaded.metadata.normalisation.mean["latitude"] == 2.0
    assert loaded.metadata.normalisation.std["specific_humidity_925"] == 47.5
    assert loaded.metadata.in_variables == tuple(NAMES)
    assert "latitude" not in loaded.metadata.out_variables


def test_run_folder_and_its_file_forecast_the_same_bits(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = make_dataset()
    folder = make_checkpoint(dataset)
    convert(folder, "--output", tmp_path / "one.safetensors")
    assert load_checkpoint(tmp_path / "one.safetensors").metadata == load_checkpoint(folder).metadata
    source, samples = DataSet(dataset).select(None)[0], [Sample(time_index=3, lead_steps=2)]
    forecasts = [Forecaster.load(path, source).forecast(samples) for path in (folder, tmp_path / "one.safetensors")]
    assert torch.equal(*forecasts)
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        assert json.loads(file.metadata()["about"])["model"]["embed_dim"] == 16
    assert b"pickle" not in (tmp_path / "one.safetensors").read_bytes()


def test_finetuning_takes_the_file(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = make_dataset()
    convert(make_checkpoint(dataset, depth=1), "--output", tmp_path / "one.safetensors")
    before = load_checkpoint(tmp_path / "one.safetensors")
    settings: dict[str, Any] = {
        "run_folder": str(tmp_path / "tuned"),
        "checkpoint": str(tmp_path / "one.safetensors"),
        "data": {"dataset": str(dataset), "period": ["2001", "2003"], "micro_batch_size": 2},
        "model": before.metadata.to_dict()["model"],
        "optimizer": {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0},
        "train": {"steps": 1, "threads": 1},
    }
    (tmp_path / "tune.yaml").write_text(json.dumps(settings))
    main(["finetune", "--config", str(tmp_path / "tune.yaml")])
    after = load_checkpoint(tmp_path / "tuned")
    # A learning rate of 1e-30 changes no float32 except 0.
    assert all(torch.allclose(after.weights[n], before.weights[n], rtol=0, atol=1e-20) for n in before.weights)


def test_new_grid(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = make_checkpoint(make_dataset())
    convert(folder, "--output", tmp_path / "fine.safetensors", "--height", 20, "--width", 36)
    before, after = load_checkpoint(folder), load_checkpoint(tmp_path / "fine.safetensors")
    assert after.metadata.config == replace(before.metadata.config, height=20, width=36)
    expected = resize_positions(before.weights["pos_embed"], (2, 4), (5, 9))
    assert torch.equal(after.weights["pos_embed"], expected)
    same = [name for name in before.weights if name != "pos_embed"]
    assert all(torch.equal(after.weights[name], before.weights[name]) for name in same)
    ClimaXNetwork(after.metadata.config).load_state_dict(after.weights)
    convert(tmp_path / "fine.safetensors", "--output", tmp_path / "again.safetensors", "--height", 8, "--width", 16)
    assert load_checkpoint(tmp_path / "again.safetensors").metadata == before.metadata

    odd = ("--output", tmp_path / "odd.safetensors", "--height", 21, "--width", 36)
    assert "not a multiple of model.patch = 4" in refused(capsys, folder, *odd)
    assert not (tmp_path / "odd.safetensors").exists()


def test_units_from_yaml_and_from_a_data_set(
    original: OriginalClimaX, make_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lightning_file(original, tmp_path / "original.ckpt")
    table = tmp_path / "units.yaml"
    table.write_text("2m_temperature: {mean: 280, std: 20}\nlattitude: {mean: 0, std: 52}\n")
    convert(source, "--output", tmp_path / "a.safetensors", "--normalisation", table)
    about = load_checkpoint(tmp_path / "a.safetensors").metadata
    assert (about.in_variables, about.out_variables) == (("latitude", "2m_temperature"), ("2m_temperature",))
    assert "not used as input before fine-tuning: land_sea_mask, orography" in capsys.readouterr().out
    dataset = make_dataset(shape=(8, 16))
    convert(source, "--output", tmp_path / "b.safetensors", "--normalisation", dataset)
    about = load_checkpoint(tmp_path / "b.safetensors").metadata
    source_B = DataSet(dataset).select(None)[0]
    pooled = dict(zip(source_B.channels, source_B.mean_C, strict=True))
    assert about.normalisation.mean["geopotential_500"] == pytest.approx(pooled["geopotential_500"], rel=1e-12)
    # The converted file can forecast that data set.
    Forecaster.load(tmp_path / "b.safetensors", source_B).forecast([Sample(time_index=0, lead_steps=1)])


def damage(state: dict[str, Any], how: str) -> None:
    """One fault in a state dict."""
    if how == "missing":
        del state["net.blocks.1.attn.qkv.bias"]
    elif how == "unexpected":
        state["net.regional_mask"] = torch.zeros(3)
    elif how == "shape":
        state["net.lead_time_embed.weight"] = torch.zeros(32, 2)
    elif how == "gap":
        del state["net.token_embeds.7.proj.weight"]
    elif how == "both forms":
        state["net.token_embeds.proj_weights"] = torch.zeros(48, 32, 1, 2, 2)
    elif how == "no positions":
        del state["net.pos_embed"]
    elif how == "flat positions":
        state["net.pos_embed"] = torch.zeros(32)
    elif how == "positions":
        state["net.pos_embed"] = torch.zeros(1, 31, 32)
    elif how == "fewer variables":
        for part in ("weight", "bias"):
            del state[f"net.token_embeds.47.proj.{part}"]
    elif how == "not tensors":
        state["net.norm.weight"] = "1.0"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "blocks.1.attn.qkv.bias is missing"),
        ("unexpected", "regional_mask is unexpected"),
        ("shape", "lead_time_embed.weight has shape (32, 2), expected (32, 1)"),
        ("gap", "token_embeds.7.proj.weight is missing"),
        ("both forms", "exactly one form of the patch embedding"),
        ("no positions", "has no matrix pos_embed"),
        ("flat positions", "has no matrix pos_embed"),
        ("positions", "31 patches of 2×2 cells"),
        ("fewer variables", "has 47 variables, but 48 names of ClimaX are assumed: give the names"),
        ("not tensors", "net.norm.weight is a str, not a tensor"),
    ],
)
def test_unfit_original_is_refused(
    original: OriginalClimaX, units: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, message: str
) -> None:
    source = lightning_file(original, tmp_path / "original.ckpt")
    content = torch.load(source, weights_only=True)
    damage(content["state_dict"], how)
    torch.save(content, source)
    error = refused(capsys, source, "--output", tmp_path / "o.safetensors", "--normalisation", units)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o.safetensors").exists()


class Bomb:
    """Runs code when a pickle is loaded unsafely."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_code_in_a_pickle_does_not_run(
    tmp_path: Path, units: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"net.pos_embed": Bomb()}}, tmp_path / "bad.ckpt")
    options = ("--output", tmp_path / "o.safetensors", "--normalisation", units)
    assert "cannot be read as a PyTorch file of tensors" in refused(capsys, tmp_path / "bad.ckpt", *options)
    (tmp_path / "worse.ckpt").write_bytes(pickle.dumps(Bomb()))
    refused(capsys, tmp_path / "worse.ckpt", *options)
    assert not (tmp_path / "exploded").exists()


def test_refusals(
    original: OriginalClimaX, make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source, output = lightning_file(original, tmp_path / "original.ckpt"), tmp_path / "o.safetensors"
    assert "does not store the normalisation of its variables" in refused(capsys, source, "--output", output)
    folder = make_checkpoint(make_dataset())
    assert "must end in .safetensors" in refused(capsys, folder, "--output", tmp_path / "o.ckpt")
    assert "height, width: give both or neither" in refused(capsys, folder, "--output", output, "--height", 8)
    assert "heads: only for original ClimaX files" in refused(capsys, folder, "--output", output, "--heads", 8)
    assert "does not exist; create it" in refused(capsys, folder, "--output", tmp_path / "no" / "o.safetensors")
    assert "no checkpoint in" in refused(capsys, tmp_path / "nothing", "--output", output)
    convert(folder, "--output", output)
    assert "replace it with --overwrite true" in refused(capsys, folder, "--output", output)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2m_temperature: 280", "expected {mean: …, std: …}"),
        ("2m_temperature: {mean: 280, std: 0}", "std above 0"),
        ("2m_temperature: {mean: warm, std: 1}", "one number each"),
        ("2m_temperatures: {mean: 280, std: 1}", "did you mean 2m_temperature"),
        ("[1, 2]", "is not a table"),
        ("{", "is not readable YAML"),
        ("orography: {mean: 280, std: 1}", "has no value for any variable that the model can forecast"),
    ],
)
def test_bad_normalisation_table(
    original: OriginalClimaX, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    source = lightning_file(original, tmp_path / "original.ckpt")
    (tmp_path / "units.yaml").write_text(text)
    options = ("--output", tmp_path / "o.safetensors", "--normalisation", tmp_path / "units.yaml")
    assert message in refused(capsys, source, *options)


def test_unpaired_and_absent_normalisation_files(
    original: OriginalClimaX, units: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lightning_file(original, tmp_path / "original.ckpt")
    np.savez(units / "normalize_std.npz", **{"2m_temperature": np.array([1.0])})
    options = ("--output", tmp_path / "o.safetensors", "--normalisation")
    assert "in only one of normalize_mean.npz and normalize_std.npz" in refused(capsys, source, *options, units)
    assert "holds no mean and standard" in refused(capsys, source, *options, tmp_path / "nowhere")


def test_damaged_file_is_refused(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output, copy = tmp_path / "o.safetensors", ("--output", tmp_path / "copy.safetensors")
    convert(make_checkpoint(make_dataset()), "--output", output)
    whole = output.read_bytes()
    for place in (len(whole) - 5, len(whole) // 2):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        output.write_bytes(flipped)
        assert "differs from its sha256" in refused(capsys, output, *copy)
    output.write_bytes(whole[: len(whole) // 2])
    assert "is not a readable safetensors file" in refused(capsys, output, *copy)
    output.write_bytes(whole)
    save_file(load_file(output), tmp_path / "plain.safetensors")
    assert "is not a climax_hpc/model" in refused(capsys, tmp_path / "plain.safetensors", *copy)
