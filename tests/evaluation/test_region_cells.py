"""`region_cells: whole_patches`: in regions only whole patches of the model count, as in ClimaX's regional scores."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regions import REGIONS, region_indices, whole_patches

MakeDataSet = Callable[..., Path]
T2M = "2m_temperature"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("NorthAmerica", (8, 14)),
        ("SouthAmerica", (14, 10)),
        ("Europe", (6, 8)),
        ("SouthAsia", (10, 14)),
        ("EastAsia", (10, 12)),
        ("Australia", (10, 14)),
    ],
)
def test_sizes_are_those_in_the_code_of_climax(name: str, shape: tuple[int, int]) -> None:
    """The comments of its table of regions, at 5.625° with patches of 2 cells."""
    rows, columns = whole_patches(region_indices(regular_grid(5.625), REGIONS[name]), 2, name)
    assert (len(rows), len(columns)) == shape
    assert (rows[0] % 2, columns[0] % 2) == (0, 0)


@pytest.fixture(scope="module")
def config(make_dataset: MakeDataSet, make_checkpoint: Callable[..., Path]) -> EvaluateConfig:
    dataset = make_dataset()
    return EvaluateConfig(
        run_folder="",
        models={"two": str(make_checkpoint(dataset, mode="full", patch=2))},
        dataset=str(dataset),
        source="JCM-C",
        period=("2004", "2004"),
        train_period=("2001", "2003"),
        lead_hours=(24,),
        map_lead_hours=24,
        regions=["Africa"],
        region_cells="whole_patches",
        resamples=0,
        spectra=False,
    )


def test_only_whole_patches_are_scored(config: EvaluateConfig, tmp_path: Path) -> None:
    source = DataSet(config.dataset).select(None)[0]
    cells = region_indices(source.grid, REGIONS["Africa"])
    assert [len(index) for index in cells] == [4, 3]
    rows, columns = whole_patches(cells, 2, "Africa")
    assert (rows.tolist(), columns.tolist()) == ([2, 3, 4, 5], [0, 1])
    content = json.loads(evaluate(replace(config, run_folder=str(tmp_path / "e"))).read_text())
    c = source.channels.index(T2M)
    z = np.stack([source.read(t)[c] for t in range(144, 192)])[:, rows[:, None], columns].astype(np.float64)
    weight = np.diff(np.sin(np.deg2rad(source.grid.lat_bnds[rows])), axis=1)[:, 0]
    rmse = source.std_C[c] * np.sqrt(((z[4:] - z[:-4]) ** 2).mean(axis=(0, 2)) @ weight / weight.sum())
    assert content["regions"]["Africa"]["scores"]["persistence"][T2M]["24"]["rmse"] == pytest.approx(rmse)
    assert content["settings"]["region_cells"] == "whole_patches"


def test_refusals(config: EvaluateConfig, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    here = replace(config, run_folder=str(tmp_path / "e"))
    four = {"four": str(make_checkpoint(Path(config.dataset), mode="full", patch=4))}
    with pytest.raises(UserError, match="region_cells: the models have patches of 2 and 4 cells; use all"):
        evaluate(replace(here, models=config.models | four))
    with pytest.raises(UserError, match="region_cells: region Africa contains no whole patch of 4 × 4 cells; use all"):
        evaluate(replace(here, models=four))
    with pytest.raises(UserError, match="region_cells: use all or whole_patches"):
        replace(here, region_cells="some")
    assert not (tmp_path / "e").exists()
