"""model.json: every key is checked when it is read, and the weights must fit it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.utils.files import sha256


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(years=3, steps_per_year=30)


@pytest.fixture(scope="module")
def whole(dataset: Path, make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("step"), "step is missing"),
        (lambda m: m.update(step=-1), "step is -1: .* greater than or equal to 0"),
        (lambda m: m["model"].update(depth="2"), 'model.depth is "2": .* valid integer'),
        (lambda m: m["model"].update(height=3), r"model\.height = 3 is not a multiple"),
        (lambda m: m["normalisation"]["std"].popitem(), "mean and std, or r and s, are not of the same variables"),
        (lambda m: m["normalisation"]["mean"].update({"2m_temperature": None}), "2m_temperature is null: .* number"),
        (lambda m: m["normalisation"]["anomaly_std"].clear(), "anomaly_std lacks a variable"),
        (lambda m: m["normalisation"]["lead_hours"].pop(), "one value per lead time"),
        (lambda m: m["out_variables"].append("x"), "out_variables has 'x', which is no variable of the model"),
        (lambda m: m.update(more=1), "more is no key"),
        (lambda m: m["model"].update(decoder_depth=3), "its weights do not fit its model.json"),
    ],
)
def test_model_json_is_checked_when_it_is_read(
    dataset: Path, whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """Someone who edits it on purpose writes its sha256 anew."""
    folder = Path(shutil.copytree(whole, tmp_path / whole.name))
    content = json.loads((folder / "model.json").read_text())
    change(content)
    (folder / "model.json").write_text(json.dumps(content))
    sums = {name: sha256(folder / name) for name in ("model.json", "weights.safetensors")}
    (folder / "SHA256SUMS.json").write_text(json.dumps(sums))
    source = DataSet(dataset).select(None)[0]
    with pytest.raises(UserError, match=message):
        Forecaster(load_checkpoint(folder), source, variables=None, device=torch.device("cpu"))
