"""Shards, checkpoints, a run folder and an evaluation written by commit 3b8de63 open with today's code; README.md."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import yaml

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import run
from climax_hpc.config.renamed_keys import translate
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError

FILES = Path(__file__).parent / "commit_3b8de63"
VARIABLES = ("2m_temperature", "geopotential_500")
ONE_START = {"period": ["2002-01-02", "2002-01-02"], "start_every_hours": 24, "lead_hours": [6, 24]}

Call = Callable[[str, dict[str, Any]], None]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a verb on settings, in a folder that holds a copy of the files."""
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def call(verb: str, settings: dict[str, Any]) -> None:
        Path("settings.yaml").write_text(yaml.safe_dump(settings))
        run([verb, "--config", "settings.yaml"])

    return call


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Losses and forecasts that commit 3b8de63 computed."""
    content: dict[str, Any] = json.loads((FILES / "expected.json").read_text())
    return content


def test_a_gzip_shard_of_yearly_means(call: Call) -> None:
    call("verify", {"dataset": "scenario"})
    (source,) = DataSet("scenario").select(None)
    assert (source.steps, source.frequency, len(source.channels)) == (86, "yr", 8)
    (shard,) = Path("scenario").glob("*/*.h5")
    with h5py.File(shard) as file:
        assert file["fields"].compression == "gzip"
        np.testing.assert_array_equal(source.read(85), file["fields"][85])


@pytest.mark.parametrize("name", ["data", "coarse"])
def test_every_time_step_is_read_with_its_checksum(call: Call, name: str) -> None:
    call("verify", {"dataset": name})
    (source,) = DataSet(name).select(None)
    shards = sorted(Path(name).glob("*/TEST-1*.h5"))
    stored = np.concatenate([h5py.File(shard)["fields"][:] for shard in shards])
    np.testing.assert_array_equal(np.stack([source.read(t) for t in range(source.steps)]), stored)
    assert stored.shape[:2] == (40, 2)
    assert source.channels == list(VARIABLES)
    assert set(source.static) == {"land_sea_mask", "orography", "latitude"}


def test_a_changed_byte_is_still_found(call: Call) -> None:
    shard = min(Path("data").glob("*/TEST-1*.h5"))
    with h5py.File(shard) as file:
        offset = file["fields"].id.get_chunk_info(3).byte_offset
    content = bytearray(shard.read_bytes())
    content[offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="does not match its checksum"):
        DataSet("data").select(None)[0].read(3)
    with pytest.raises(UserError, match=r"2001-01-01T18:00:00.* does not match its checksum"):
        call("verify", {"dataset": "data"})


def test_without_the_key_start_values_were_those_of_climax() -> None:
    for name in ("run", "regional.safetensors", "downscaling.safetensors", "projection.safetensors"):
        assert load_checkpoint(FILES / name).metadata.config.init == "climax"


@pytest.mark.parametrize(
    "checkpoint", ["run", "regional.safetensors", "downscaling.safetensors", "projection.safetensors"]
)
def test_same_forecasts(call: Call, expected: dict[str, Any], checkpoint: str) -> None:
    name = checkpoint.removesuffix(".safetensors")
    own: dict[str, dict[str, Any]] = {
        "downscaling": ONE_START | {"input": "coarse", "task": "downscaling", "climatology": "pairs.json"},
        "projection": {"input": "scenario", "task": "projection", "period": ["2098", "2100"]},
    }
    settings = own.get(name, ONE_START | {"input": "data"})
    settings |= {"models": {"model": checkpoint}, "output": "out.nc"}
    call("predict", settings)
    with netCDF4.Dataset("out.nc") as file:
        for variable, values in expected["forecasts"][name].items():
            found = file[variable][:].astype(float).filled(np.nan).ravel()
            # Float32 arithmetic on values of 5e4 m² s⁻²; other versions of torch may round in another order.
            np.testing.assert_allclose(found, values, rtol=2e-6, err_msg=variable)


def test_the_run_resumes_with_the_same_losses(call: Call, expected: dict[str, Any]) -> None:
    before = Path("run/metrics.jsonl").read_text()
    call("pretrain", translate(yaml.safe_load(Path("run/config.yaml").read_text())))
    assert Path("run/metrics.jsonl").read_text().startswith(before)  # steps 1 to 4 were not run again
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    # The optimiser amplifies differences in rounding between versions of torch.
    assert [row["loss"] for row in rows] == pytest.approx(expected["losses"], rel=1e-4)


def test_the_run_does_not_resume_with_other_start_values(call: Call) -> None:
    settings = translate(yaml.safe_load(Path("run/config.yaml").read_text()))
    del settings["model"]["init"]
    with pytest.raises(UserError, match=r"model\.init: climax there, scaled now"):
        call("pretrain", settings)


def test_fine_tuning_starts_from_it(call: Call) -> None:
    about = load_checkpoint("run").metadata
    model = translate(yaml.safe_load(Path("run/config.yaml").read_text()))["model"]
    data = {"dataset": "data", "period": ["2001", "2001"], "max_lead_hours": 24}
    optim = {"lr": 1e-3, "warmup_steps": 0}
    train = {"steps": 2, "log_every": 1, "threads": 1}
    call(
        "finetune",
        {"run_folder": "tuned", "checkpoint": "run", "data": data, "model": model, "optimizer": optim, "train": train},
    )
    tuned = load_checkpoint("tuned").metadata
    assert tuned.step == 2
    for name in VARIABLES:
        assert tuned.normalisation.mean[name] == about.normalisation.mean[name]


def test_convert_and_evaluate_accept_it(call: Call) -> None:
    call("convert", {"source": "run", "output": "run.safetensors"})
    models = {"run": "run", "converted": "run.safetensors"}
    settings = {"models": models, "dataset": "data", "source": "TEST-1", "period": ["2002", "2002"]}
    settings |= {"train_period": ["2001", "2001"], "lead_hours": [6, 24], "map_lead_hours": 24, "resamples": 100}
    call("evaluate", settings | {"run_folder": "again"})
    again, stored = (json.loads(Path(f, "evaluation.json").read_text())["scores"] for f in ("again", "evaluation"))
    assert again["converted"] == again["run"]
    for label, scores in stored.items():
        for name in VARIABLES:
            for lead, values in scores[name].items():
                assert again[label][name][lead]["rmse"] == pytest.approx(values["rmse"], rel=1e-5)


def test_report_draws_the_stored_evaluation(call: Call) -> None:
    call("report", {"evaluation": "evaluation", "runs": {"pretraining": "run"}, "output": "report.html"})
    page = Path("report.html").read_text()
    assert "TEST-1_historical_r1i1p1f1" in page


def test_a_key_younger_than_the_run_counts_as_its_default(call: Call) -> None:
    settings = translate(yaml.safe_load(Path("run/config.yaml").read_text()))
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    del stored["train"]["patience"]
    Path("run/config.yaml").write_text(yaml.safe_dump(stored))
    other = settings | {"train": settings["train"] | {"spike_factor": 7.0}}
    with pytest.raises(UserError, match=r"train\.spike_factor: 20\.0 there, 7\.0 now"):
        call("pretrain", other)
    call("pretrain", settings)
    assert load_checkpoint("run").metadata.step == 8
