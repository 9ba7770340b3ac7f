"""The micro-batch that fills a device: largest that fits, same global batch; recipes and docs hold what it finds."""

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from climax_hpc.cli import main
from climax_hpc.config.parser import read_config
from climax_hpc.errors import UserError
from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.micro_batch import MEMORY_GB
from climax_hpc.tools.plan.planner import Plan, make_plan

DOCS = Path(__file__).parents[3] / "docs" / "guides" / "training.md"
RECIPES = sorted(
    file.name.removesuffix(".yaml")
    for file in files("climax_hpc.configs").iterdir()
    if re.match(r"climax_\d", file.name)
)


def config_of(recipe: str, devices: int) -> PlanConfig:
    return read_config(PlanConfig, "plan", ["--config", recipe, "--devices_per_node", str(devices)])


def with_micro_batch(config: PlanConfig, size: int, memory_gb: float) -> Plan:
    """The plan with another micro-batch and the same global batch."""
    samples = config.data.micro_batch_size * config.data.micro_batches_per_step
    data = replace(config.data, micro_batch_size=size, micro_batches_per_step=samples // size)
    return make_plan(replace(config, data=data, memory_gb=memory_gb))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_largest_that_fits_and_keeps_the_global_batch(recipe: str, devices: int) -> None:
    config = config_of(recipe, devices)
    samples = config.data.micro_batch_size * config.data.micro_batches_per_step
    fillings = make_plan(config).fillings
    assert [one.memory_gb for one in fillings] == list(MEMORY_GB)
    for one in fillings:
        size = one.micro_batch_size or 0
        if size:
            assert size * (one.micro_batches_per_step or 0) == samples
            plan = with_micro_batch(config, size, one.memory_gb)
            assert plan.fits
            assert plan.memory.total == one.bytes
        larger = next((B for B in range(size + 1, samples // devices + 1) if samples // devices % B == 0), None)
        if larger:
            assert not with_micro_batch(config, larger, one.memory_gb).fits


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_fill_gpus_of_40_gb(recipe: str) -> None:
    config = config_of(recipe, 4 if re.search("_(8|10)m_", recipe) else 8)
    (filling,) = (one for one in make_plan(config).fillings if one.memory_gb == 40)
    assert filling.micro_batch_size == config.data.micro_batch_size
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{recipe}`"))
    assert row.endswith(f"| {config.data.micro_batches_per_step} of {config.data.micro_batch_size} |")


def test_the_table_in_the_docs_is_what_plan_finds() -> None:
    rows = re.findall(r"^\| `(climax_\w+[.\w]*)` \| (\d+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert {recipe for recipe, *_ in rows} == set(RECIPES)
    for recipe, devices, cells in rows:
        found = [str(one.micro_batch_size or "–") for one in make_plan(config_of(recipe, int(devices))).fillings]
        assert cells.split(" | ") == found, recipe


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--config", "climax_1b_0.25deg", "--devices_per_node", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r" +16 GB +does not fit", line) for line in lines)
    assert any(re.fullmatch(r" +40 GB +8 +64 +3\d(\.\d)? GB", line) for line in lines)


def test_devices_that_cannot_share_a_step_are_told_how_they_can() -> None:
    same = "set data.micro_batch_size = 8 and data.micro_batches_per_step = 64, which keeps 512 samples per step"
    with pytest.raises(UserError, match=f"64 devices cannot share .* = 8 micro-batches evenly: {same}, or change"):
        make_plan(config_of("climax_108m_5.625deg", 64))
