"""`climax-hpc evaluate` from end to end on a small data set, and every bad input that it must refuse."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from climax_hpc.checkpoint.format import find
from climax_hpc.checkpoint.metadata import TrainingMetadata
from climax_hpc.cli import main
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.tools.convert import convert
from climax_hpc.tools.convert_config import ConvertConfig
from climax_hpc.utils.files import sha256, write_json

Z500, T2M = "geopotential_500", "2m_temperature"


@pytest.fixture(scope="module")
def shared(make_dataset: Callable[..., Path], make_evaluation: Callable[..., EvaluateConfig]) -> EvaluateConfig:
    return make_evaluation(make_dataset(), map_lead_hours=48)


@pytest.fixture
def config(shared: EvaluateConfig, tmp_path: Path) -> EvaluateConfig:
    return replace(shared, run_folder=str(tmp_path / "evaluation"))


@pytest.fixture
def own_files(config: EvaluateConfig, tmp_path: Path) -> EvaluateConfig:
    """The same with copies of data set and checkpoints, to be damaged."""
    copies = {label: shutil.copytree(path, tmp_path / label) for label, path in config.models.items()}
    dataset = shutil.copytree(config.dataset, tmp_path / "data")
    return replace(config, dataset=str(dataset), models={label: str(path) for label, path in copies.items()})


def test_scores_are_those_of_a_plain_computation(config: EvaluateConfig) -> None:
    """Persistence and a model at 24 h, read, scored and averaged here in a few lines of numpy."""
    content = json.loads(evaluate(config).read_text())
    assert content["pairs"] == {"6": 47, "24": 44, "72": 36}
    source = DataSet(config.dataset).select(None)[0]
    z = np.stack([source.read(t).astype(np.float64) for t in range(144, 192)])
    climatology = np.stack([source.read_climatology(t).astype(np.float64) for t in range(144, 192)])
    weight = np.broadcast_to(latitude_weights(source.grid)[:, None], source.grid.shape)
    c = source.channels.index(Z500)
    std = source.std_C[c]
    forecasts = {"persistence": z[:-4, c], "anomaly": None}
    samples = [Sample(time_index=144 + i, lead_steps=4) for i in range(44)]
    model = Forecaster.load(config.models["anomaly"], source)
    forecasts["anomaly"] = model.forecast(samples)[:, model.variables.index(Z500)].double().numpy()
    for label, forecast in forecasts.items():
        found = content["scores"][label][Z500]["24"]
        error = (forecast - z[4:, c]) * std
        assert found["rmse"] == pytest.approx(np.sqrt(np.average(error**2, axis=0).ravel() @ weight.ravel() / 128))
        assert found["bias"] == pytest.approx((error.mean(axis=0) * weight).mean())
        a, b = forecast - climatology[4:, c], z[4:, c] - climatology[4:, c]
        acc = (weight * a * b).sum((1, 2)) / np.sqrt((weight * a * a).sum((1, 2)) * (weight * b * b).sum((1, 2)))
        assert found["acc"] == pytest.approx(acc.mean())


def test_contents_of_the_evaluation(config: EvaluateConfig, capsys: pytest.CaptureFixture[str]) -> None:
    card = Scorecard.load(evaluate(config).parent)
    content = card.content
    assert card.models == ["anomaly", "full"]
    assert card.baselines == ["persistence", "climatology", "damped persistence"]
    assert content["variables"][Z500] == {"short_name": "Z500", "units": "m2 s-2"}
    assert content["provenance"]["manifest_sha256"] == DataSet(config.dataset).manifest_sha256
    described = content["models"]["anomaly"]
    assert described["step"] == 7
    assert described["output_mode"] == "anomaly"
    assert described["weights_sha256"] == sha256(Path(config.models["anomaly"]) / "weights.safetensors")
    assert content["scores"]["climatology"][Z500]["24"]["acc"] is None
    assert content["map"]["lead_hours"] == 48
    printed = capsys.readouterr().out
    assert "Z500 [m² s⁻²]" in printed
    assert "an addition to ClimaX" in printed
    assert "evaluate: 72 h done, 127/127 forecasts" in printed
    # The untrained full-field model is no better than a baseline, and the table says so.
    assert all(
        cell.endswith("*") for line in printed.splitlines() if line.startswith("full ") for cell in line.split()[1:]
    )


def test_a_converted_file_is_scored_as_its_checkpoint(config: EvaluateConfig, tmp_path: Path) -> None:
    one = tmp_path / "one.safetensors"
    convert(ConvertConfig(source=config.models["full"], output=str(one)))
    both = {"folder": config.models["full"], "file": str(one)}
    content = Scorecard.load(evaluate(replace(config, models=both, lead_hours=(24,), resamples=0)).parent).content
    assert content["scores"]["file"] == content["scores"]["folder"]
    assert content["models"]["file"]["weights_sha256"] == sha256(one)


def test_sample_maps_are_physical_and_need_no_pickle(config: EvaluateConfig) -> None:
    folder = evaluate(config).parent
    source = DataSet(config.dataset).select(None)[0]
    with np.load(folder / "maps.npz", allow_pickle=False) as maps:
        names = maps["variables"].tolist()
        # 40 starts at 48 h in the held-out 48 steps: the middle one is the 21st, valid 8 steps later.
        z = source.read(144 + 20 + 8)[source.channels.index(Z500)].astype(np.float64)
        c = source.channels.index(Z500)
        expected = z * source.std_C[c] + source.mean_C[c]
        np.testing.assert_allclose(maps["truth"][names.index(Z500)], expected, rtol=1e-6)
        assert maps["land_sea_mask"].shape == source.grid.shape


def test_pairs_lie_in_one_segment_and_the_period(config: EvaluateConfig) -> None:
    content = json.loads(evaluate(replace(config, period=("2003", "2004"))).read_text())
    assert content["pairs"] == {"6": 94, "24": 88, "72": 72}


def test_batches_do_not_matter(config: EvaluateConfig, tmp_path: Path) -> None:
    runs = [
        json.loads(
            evaluate(
                replace(config, lead_hours=(24,), batch_size=size, run_folder=str(tmp_path / f"e{size}"))
            ).read_text()
        )["scores"]
        for size in (5, 64)
    ]
    for other in runs[1:]:
        for label in ("anomaly", "full", "persistence", "damped persistence"):
            for variable in runs[0][label]:
                # float32 forecasts of batches of other sizes differ in the last bits.
                assert other[label][variable]["24"] == pytest.approx(runs[0][label][variable]["24"], rel=1e-4)


def test_masked_cells_are_left_out_for_all_models(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], config: EvaluateConfig
) -> None:
    missing = np.zeros((8, 16), bool)
    missing[:3, 2:9] = True
    dataset = make_dataset(missing={T2M: missing})
    config = replace(config, dataset=str(dataset), models={"model": str(make_checkpoint(dataset))})
    content = json.loads(evaluate(config).read_text())
    source = DataSet(dataset).select(None)[0]
    c = source.channels.index(T2M)
    z = np.stack([source.read(t)[c].astype(np.float64) for t in range(144, 192)]) * source.std_C[c]
    weight = np.where(missing, 0, latitude_weights(source.grid)[:, None])
    squares = np.nan_to_num((z[:-4] - z[4:]) ** 2).mean(axis=0)
    expected = np.sqrt((squares * weight).sum() / weight.sum())
    assert content["scores"]["persistence"][T2M]["24"]["rmse"] == pytest.approx(expected)
    assert content["scores"]["model"][T2M]["24"]["rmse"] > 0


def test_models_of_other_variables_are_scored_on_theirs(
    make_checkpoint: Callable[..., Path], config: EvaluateConfig
) -> None:
    small = make_checkpoint(Path(config.dataset), variables=(Z500, "latitude"))
    folder = evaluate(replace(config, models=config.models | {"small": str(small)})).parent
    card = Scorecard.load(folder)
    assert card.value("small", Z500, 24) is not None
    assert card.value("small", T2M, 24) is None
    assert "small" not in card.best(T2M, 24)


def test_a_second_evaluation_replaces_the_first(config: EvaluateConfig) -> None:
    evaluate(config)
    content = json.loads(evaluate(replace(config, lead_hours=(12,))).read_text())
    assert content["lead_hours"] == [12]
    assert sorted(p.name for p in Path(config.run_folder).iterdir()) == ["evaluation.json", "maps.npz"]


BAD = {
    "unknown source": ({"source": "ERA5"}, "no source 'ERA5'.*JCM-C_synthetic_r1i1p1f1"),
    "period without data": ({"period": ("1990", "1991")}, "no time step in 1990 … 1991; it has 2001"),
    "training period without data": ({"train_period": ("1990", "1990")}, "no time step in 1990"),
    "no date": ({"period": ("soon", "2004")}, "'soon' is not a date"),
    "lead between steps": (
        {"lead_hours": (6, 10)},
        "lead_hours: 10 h is not a multiple of the 6 h step.*use for example 12",
    ),
    "lead below a step": ({"lead_hours": (2,)}, "lead_hours: 2 h is not a multiple.*use for example 6"),
    "lead beyond the period": ({"lead_hours": (720,)}, "lead_hours: 720 h does not fit.*allows 282 h"),
    "map lead beyond the period": ({"map_lead_hours": 288.0}, "map_lead_hours: 288 h does not fit"),
    "lead beyond train_period": (
        {"train_period": ("2001-01-01", "2001-01-02")},
        "train_period: damped persistence at 72 h .* allows 42 h; widen train_period",
    ),
    "run folder below a file": ({"run_folder": f"{__file__}/a/b"}, "run_folder: .*test_evaluate.py is a file, so it"),
    "variable not in the source": ({"variables": ["temperature_500"]}, "no channel 'temperature_500'; did you mean"),
    "misspelt variable": (
        {"variables": ["geopotental_500"]},
        "unknown variable 'geopotental_500'; did you mean geopot",
    ),
    "no data set": ({"dataset": "nowhere"}, "nowhere.*manifest.json"),
    "no checkpoint": ({"models": {"a": "nowhere"}}, "no checkpoint in nowhere"),
    "label of a baseline": ({"models": {"persistence": "nowhere"}}, "no checkpoint|label 'persistence'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(config: EvaluateConfig, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = BAD[name]
    with pytest.raises(UserError, match=message):
        evaluate(replace(config, **change))  # type: ignore[arg-type]
    assert not Path(config.run_folder).exists()


def test_label_of_a_baseline(config: EvaluateConfig) -> None:
    with pytest.raises(UserError, match="label 'persistence' is that of a baseline"):
        evaluate(replace(config, models={"persistence": config.models["full"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {}}, "models is empty"),
        ({"lead_hours": ()}, "lead_hours: give one lead time or more"),
        ({"lead_hours": (0, 6)}, "lead_hours: give one lead time or more"),
        ({"map_lead_hours": 0}, "map_lead_hours"),
        ({"variables": []}, "variables is empty"),
        ({"batch_size": 0}, "batch_size"),
        ({"latitude_weights": "none"}, "use cell or cos"),
    ],
)
def test_bad_values(config: EvaluateConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(config, **change)


def test_model_on_another_grid(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path], config: EvaluateConfig
) -> None:
    other = make_checkpoint(make_dataset(shape=(16, 32)))
    with pytest.raises(UserError, match=r"8 × 16, the model on 16 × 32"):
        evaluate(replace(config, models={"a": str(other)}))
    assert not Path(config.run_folder).exists()


def test_variable_that_no_model_forecasts(make_checkpoint: Callable[..., Path], config: EvaluateConfig) -> None:
    small = make_checkpoint(Path(config.dataset), variables=(Z500, "latitude"))
    with pytest.raises(UserError, match="no model forecasts 2m_temperature; they forecast geopotential_500"):
        evaluate(replace(config, models={"small": str(small)}, variables=[Z500, T2M]))


def test_source_without_climatology(make_dataset: Callable[..., Path], config: EvaluateConfig) -> None:
    bare = make_dataset(climatology=False)
    with pytest.raises(UserError, match=r"packed without a climatology.*climatology: true"):
        evaluate(replace(config, dataset=str(bare)))


def test_damaged_checkpoint(own_files: EvaluateConfig) -> None:
    path = Path(own_files.models["full"]) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"weights.safetensors differs from its sha256: the checkpoint is damaged"):
        evaluate(own_files)


def test_model_with_non_finite_weights(own_files: EvaluateConfig) -> None:
    folder = Path(own_files.models["anomaly"])
    weights = load_file(folder / "weights.safetensors")
    save_file({n: torch.full_like(w, torch.nan) for n, w in weights.items()}, folder / "weights.safetensors")
    sums = {name: sha256(folder / name) for name in ("model.json", "weights.safetensors")}
    write_json(folder / "SHA256SUMS.json", sums)
    with pytest.raises(UserError, match="'anomaly' forecasts non-finite values"):
        evaluate(own_files)
    assert not Path(own_files.run_folder).exists()


def test_damaged_shard_leaves_nothing_behind(own_files: EvaluateConfig, tmp_path: Path) -> None:
    shard = sorted(Path(own_files.dataset).glob("JCM-C*/JCM-C*_2004*.h5"))[-1]
    data = bytearray(shard.read_bytes())
    step = DataSet(own_files.dataset).select(None)[0].read(191).tobytes()
    data[data.index(step)] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="does not match its checksum"):
        evaluate(replace(own_files, run_folder=str(tmp_path / "new" / "evaluation")))
    assert not (tmp_path / "new").exists()


def test_a_variable_without_a_single_valid_forecast(own_files: EvaluateConfig) -> None:
    """A climatology of other days of the year: missing from 7 January on, for one variable."""
    channel = DataSet(own_files.dataset).select(None)[0].channels.index(T2M)
    path = next(Path(own_files.dataset).glob("*/climatology.h5"))
    with h5py.File(path, "r+") as file:
        for k in np.flatnonzero(file["day_of_year"][:] > 6):
            fields = file["fields"][k]
            fields[channel] = np.nan
            file["fields"][k] = fields
            file["checksum"][k] = np.uint64(xxhash.xxh3_64_intdigest(fields.tobytes()))
    manifest = Path(own_files.dataset) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["sources"][path.parent.name]["climatology"]["header_xxh3"] = header_checksum(path)
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"period: no forecast of {T2M} at 6 h .* train_period 2001 … 2003: choose"):
        evaluate(replace(own_files, period=("2004-01-07", "2004-01-12")))
    assert not Path(own_files.run_folder).exists()
    evaluate(replace(own_files, period=("2004-01-07", "2004-01-12"), variables=[Z500]))


def test_folder_with_other_files_is_not_touched(config: EvaluateConfig) -> None:
    Path(config.run_folder).mkdir()
    (Path(config.run_folder) / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no evaluation; choose another with --run_folder"):
        evaluate(config)
    assert [p.name for p in Path(config.run_folder).iterdir()] == ["thesis.txt"]


def test_one_line_and_exit_status_2(config: EvaluateConfig, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run_folder", config.run_folder, "--models", json.dumps(config.models), "--dataset", config.dataset]
    periods = ["--period", '["2004", "2004"]', "--train_period", '["2001", "2003"]']
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *arguments, *periods, "--source", "ERA5"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("climax-hpc: error: no source 'ERA5'")


def test_threads_do_not_matter(config: EvaluateConfig) -> None:
    one = json.loads(evaluate(replace(config, threads=1, batch_size=7)).read_text())["scores"]
    assert json.loads(evaluate(replace(config, threads=3, batch_size=7)).read_text())["scores"] == one


def test_training_data_as_test_data_is_warned_of(config: EvaluateConfig, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(config)
    assert "warning" not in capsys.readouterr().out
    evaluate(replace(config, period=("2003", "2004")))
    assert "warning: period overlaps train_period" in capsys.readouterr().out


def test_every_period_that_has_seen_the_test_data_is_named(
    own_files: EvaluateConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(replace(own_files, period=("2003", "2004"), train_period=("2001", "2002")))
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert lines == [
        "evaluate: warning: period overlaps the times that the climatology was made from (train_period of pack: "
        "2001 … 2003), so these scores are not of unseen data"
    ]
    source = DataSet(own_files.dataset).select(None)[0]
    trained = TrainingMetadata(
        min_lead_hours=6,
        max_lead_hours=168,
        lead_step_hours=6,
        grid=source.grid.to_dict(),
        sources=[source.name],
        period=["2001", "2002"],
        validation_period=["2004-01-10", "2004-01-20"],
    )
    path = find(Path(own_files.models["full"])) / "model.json"
    write_json(path, json.loads(path.read_text()) | {"trained": trained.to_dict()})
    seal(path.parent)
    evaluate(own_files)
    assert "period overlaps the period that 'full' was validated on, so" in capsys.readouterr().out
    write_json(path, json.loads(path.read_text()) | {"trained": trained.to_dict() | {"sources": ["another"]}})
    seal(path.parent)
    evaluate(own_files)
    assert "warning" not in capsys.readouterr().out


def seal(folder: Path) -> None:
    """Write the hashes of a checkpoint's files anew."""
    names = ("model.json", "weights.safetensors")
    write_json(folder / "SHA256SUMS.json", {name: sha256(folder / name) for name in names})
