"""Bad input of training: one line that says where and how to fix it, exit status 2, no files left behind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from climax_hpc.cli import main, run
from climax_hpc.errors import UserError

from .conftest import train_here, write_config

Edit = Callable[[dict[str, Any]], None]


def set_key(section: str, **values: Any) -> Edit:
    return lambda settings: settings[section].update(values)


BAD_SETTINGS: dict[str, tuple[Edit, str]] = {
    "misspelt key": (set_key("train", stepz=3), r"unknown config key 'train.stepz'; did you mean train.steps\?"),
    "misspelt section": (
        lambda s: s.update(optm={"lr": 1.0}),
        r"unknown config key 'optm.lr'; did you mean optimizer.lr",
    ),
    "wrong type": (set_key("train", steps="many"), "train.steps: 'many' is not valid, expected int"),
    "zero steps": (set_key("train", steps=0), "train.steps must be at least 1"),
    "bad stage": (set_key("train", zero_stage=4), "train.zero_stage: use 0, 1, 2 or 3"),
    "bad precision": (set_key("train", precision="half"), "train.precision: use one of float32, bfloat16, float16"),
    "float16 without masters": (set_key("train", precision="float16"), "float16 needs train.zero_stage 1 or more"),
    "bfloat16 without masters": (set_key("train", precision="bfloat16"), "needs train.zero_stage 1 or more"),
    "negative rate": (set_key("optimizer", lr=-1.0), "optimizer.lr must be positive"),
    "average above 1": (set_key("train", ema_decay=1.5), r"train.ema_decay must lie in \[0, 1\)"),
    "no checkpoint kept": (set_key("train", keep_checkpoints=0), "train.keep_checkpoints must be at least 1"),
    "negative patience": (set_key("train", patience=-1), "train.patience must not be negative"),
    "empty window": (set_key("train", spike_batches=0), "train.spike_batches must be at least 1"),
    "unknown offload": (set_key("train", offload="disk"), "train.offload: use none, optimizer or all"),
    "offload without parts": (set_key("train", offload="optimizer"), "needs train.zero_stage 1 or more"),
    "offload of parameters": (set_key("train", offload="all", zero_stage=2), "offload all needs train.zero_stage 3"),
    "no second copy": (set_key("train", zero_hpz=0), "train.zero_hpz must be at least 1"),
    "second copy of whole parameters": (
        set_key("train", zero_hpz=2, zero_stage=2),
        "train.zero_hpz 2 needs train.zero_stage 3",
    ),
    "second copy of offloaded parameters": (
        set_key("train", zero_hpz=2, zero_stage=3, offload="all"),
        "train.zero_hpz 2 does not go with train.offload all",
    ),
    "compiled stage 3": (set_key("train", compile=True, zero_stage=3), "train.compile does not work with"),
    "best of nothing": (
        set_key("train", keep_best=1),
        "train.keep_best and train.patience need data.validation_period",
    ),
    "validation on training data": (
        set_key("data", validation_period=["2003", "2004"]),
        "data.validation_period 2003 … 2004 overlaps the training period of source A_synthetic_r1",
    ),
    "validation without data": (set_key("data", validation_period=["1950", "1960"]), "has no time step in 1950 … 1960"),
    "no such checkpoint": (
        lambda s: s.update(resume_from="step_00000009"),
        "has no checkpoint 'step_00000009'; it has none",
    ),
    "misspelt input": (set_key("data", in_variables=["geopotental_500"]), "did you mean geopotential_500"),
    "misspelt output": (set_key("data", out_variables=["geopotental_500"]), "did you mean geopotential_500"),
    "output that is no input": (
        set_key("data", in_variables=["2m_temperature"], out_variables=["geopotential_500"]),
        "data.out_variables: geopotential_500 is not in data.in_variables",
    ),
    "input that the model lacks": (
        set_key("data", in_variables=["temperature_850"]),
        "data.in_variables: temperature_850 is not in model.variables",
    ),
    "leads upside down": (set_key("data", min_lead_hours=24, max_lead_hours=6), "data.min_lead_hours must lie in"),
    "lead between steps": (set_key("data", min_lead_hours=7, max_lead_hours=11), "no lead time in 7 … 11 h"),
    "unknown weights kind": (set_key("data", latitude_weights="sin"), "use cell or cos"),
    "absent data set": (set_key("data", dataset="nowhere"), "nowhere: holds no manifest.json.*run `climax-hpc pack`"),
    "unknown source": (set_key("data", sources=["C"]), r"no source 'C'.*it holds A_synthetic_r1, B_synthetic_r1"),
    "weight of no source": (set_key("data", weights={"C": 1.0}), "no source 'C'"),
    "period without data": (set_key("data", period=["1950", "1960"]), "has no time step in 1950 … 1960; it has 2001"),
    "other grid": (set_key("model", height=16), r"grid of 8 × 16, the model on 16 × 16: set model.height"),
    "unknown variable": (set_key("model", variables=["geopotental_500"]), "did you mean geopotential_500"),
    "no common variable": (
        set_key("model", variables=["relative_humidity_50"]),
        "none of them is in model.variables and selected",
    ),
    "patch that does not divide": (set_key("model", patch=3), "not a multiple of model.patch"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_setting(case: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, message = BAD_SETTINGS[case]
    edit(settings)
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--config", write_config(settings, tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("climax-hpc: error: ")
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=message):
        run(["pretrain", "--config", write_config(settings, tmp_path)])
    assert not (tmp_path / "run").exists()


def test_exit_status_and_one_line_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "climax_hpc", "pretrain", "--run_folder", "x", "--data.datset", "y"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "climax-hpc: error: unknown config key 'data.datset'; did you mean data.dataset?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretran"], "unknown command 'pretran'; did you mean pretrain"),
        (["pretrain"], "required: run_folder, data.dataset; give --run_folder VALUE --data.dataset VALUE, or a file"),
        (["pretrain", "--config", "demo_pretrian"], "did you mean demo_pretrain"),
    ],
)
def test_bad_command_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(arguments)


def test_run_folder_with_other_content(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(
        UserError, match="is not empty and contains no climax_hpc run: choose another with --run_folder"
    ):
        train_here(settings, tmp_path)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["run_folder: [", "- a", "run_folder: x\x00"])
def test_a_broken_config_in_the_run_folder_is_named(settings: dict[str, Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"run/config\.yaml: (is not YAML|holds no settings)"):
        train_here(settings, tmp_path)


def test_run_folder_of_other_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    with pytest.raises(UserError, match=r"other settings \(optimizer.lr: 0.001 there, 0.002 now\)"):
        train_here(settings, tmp_path, "--optimizer.lr", "0.002")


def test_checkpoint_of_another_size(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    tuned = str(tmp_path / "tuned")
    with pytest.raises(UserError, match=r"has embed_dim = 16, the config says model.embed_dim = 32"):
        train_here(
            settings,
            tmp_path,
            *("--run_folder", tuned, "--model.embed_dim", "32", "--checkpoint", settings["run_folder"]),
            verb="finetune",
        )
    assert not Path(tuned).exists()


def test_checkpoint_folder_without_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in"):
        train_here(settings, tmp_path, "--checkpoint", str(tmp_path), verb="finetune")


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "deepspeed/mp_rank_00_model_states.pt"])
def test_damaged_checkpoint_is_not_loaded(settings: dict[str, Any], tmp_path: Path, name: str) -> None:
    train_here(settings, tmp_path)
    file = tmp_path / "run" / "checkpoints" / "step_00000006" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} differs from its sha256.*use an older one"):
        train_here(settings, tmp_path)


def test_shard_edited_after_packing(settings: dict[str, Any], tmp_path: Path) -> None:
    dataset = Path(settings["data"]["dataset"])
    for shard in dataset.glob("*/*_2*.h5"):
        with h5py.File(shard, "r+") as file:
            file["fields"][...] = 0
    with pytest.raises(UserError, match=r"\.h5: time step \d+ does not match its checksum.*restore it from a copy"):
        train_here(settings, tmp_path, "--model.output_mode", "full")
    assert not (tmp_path / "run").exists()


def test_truncated_shard(settings: dict[str, Any], tmp_path: Path) -> None:
    for shard in Path(settings["data"]["dataset"]).glob("*/*_2*.h5"):
        shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"dataset\d+/A_.*\.h5: .*time steps 0 … \d+ .*its length.*restore it from"):
        train_here(settings, tmp_path)


def test_resuming_with_damaged_manifest(settings: dict[str, Any], tmp_path: Path) -> None:
    manifest = Path(settings["data"]["dataset"]) / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(UserError, match=r"manifest\.json is not readable JSON"):
        train_here(settings, tmp_path)


def test_non_finite_loss_stops_before_the_optimiser(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    wild = settings | {"optimizer": {"lr": 1e9, "warmup_steps": 0, "gradient_clipping": 0.0}}
    folder = tmp_path / "wild"
    with pytest.raises(UserError, match=r"loss is (nan|inf) on rank 0 at step \d+, source [AB]_synthetic_r1, samples"):
        train_here(wild, tmp_path, "--run_folder", str(folder))
    assert not (folder / "checkpoints" / "latest").exists()


def test_resuming_on_another_data_set(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    manifest = Path(settings["data"]["dataset"]) / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(UserError, match="has a run on another data set"):
        train_here(settings, tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (('"schema_version": 1', '"schema_version": 99'), "version 99, not"),
        (('"step_hours"', '"hours"'), "is damaged"),
    ],
)
def test_manifest_of_another_kind(
    settings: dict[str, Any], tmp_path: Path, edit: tuple[str, str], message: str
) -> None:
    manifest = Path(settings["data"]["dataset"]) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(*edit))
    with pytest.raises(UserError, match=message):
        train_here(settings, tmp_path)
