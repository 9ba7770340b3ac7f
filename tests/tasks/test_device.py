"""Every task on a device without data: no operator mixes host and device, no copy waits after the first step.

A GPU makes the host wait for every copy from pageable memory and for every value that the host asks for.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.config.training import DataConfig, FinetuneConfig
from climax_hpc.data import batch_builder, prefetch
from climax_hpc.data.raw_batch import BatchSpec
from climax_hpc.data.sampler import Sample
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.pairs import PairConfig, pair
from climax_hpc.data_prep.simulation.scenarios import write_scenarios
from climax_hpc.distributed import process_group
from climax_hpc.fields.grid import regular_grid
from climax_hpc.inference.forecaster import Forecaster, StateForecaster
from climax_hpc.inference.initial_conditions import ShardClimatology, ShardInitialConditions
from climax_hpc.model.band import RowBand
from climax_hpc.model.config import ModelConfig
from climax_hpc.tasks.climate_projection.model import ProjectionModel
from climax_hpc.tasks.climate_projection.training import ProjectionTask
from climax_hpc.tasks.downscaling.coarse_input import CoarseReader
from climax_hpc.tasks.downscaling.models import TrainedDownscaler
from climax_hpc.tasks.downscaling.training import DownscalingTask
from climax_hpc.training.task import TrainingTask

from ..meta_device import META, MetaDevice

CHANNELS = ("2m_temperature", "geopotential_500", "v_component_of_wind_850")
FORCINGS = ("cumulative_co2_emissions", "methane_emissions", "sulfur_dioxide_emissions", "black_carbon_emissions")
# The order is not that of the data, and one variable is in no source: indices of the model are not 0, 1, 2, …
MODEL: dict[str, Any] = {
    "variables": ("latitude", "toa_insolation_at_valid_time", "temperature_850", "orography", *reversed(CHANNELS)),
    "height": 8, "width": 16, "patch": 2, "embed_dim": 16, "depth": 1, "heads": 2,
}  # fmt: skip
PROJECTION: dict[str, Any] = {
    "variables": ("latitude", *reversed(FORCINGS)), "years": 3,
    "projected": ("total_precipitation_rate", "2m_temperature", "diurnal_temperature_range"),
}  # fmt: skip
# Task, changes of the model, changes of the data.
CASES: dict[str, tuple[type[TrainingTask], dict[str, Any], dict[str, Any]]] = {
    "anomaly": (TrainingTask, {"output_mode": "anomaly"}, {}),
    "full": (TrainingTask, {"output_mode": "full"}, {"out_variables": CHANNELS[:1]}),
    "augmented": (TrainingTask, {"output_mode": "full"}, {"random_roll": True, "random_flip": True}),
    "checkpointed": (TrainingTask, {"activation_checkpointing": True}, {}),
    "rollout": (
        TrainingTask,
        {"output_mode": "anomaly"},
        {"rollout_steps": 2, "min_lead_hours": 6, "max_lead_hours": 6},
    ),
    "window": (TrainingTask, {"output_mode": "anomaly"}, {"window_hours": 24.0, "max_lead_hours": 24.0}),
    "region": (TrainingTask, {"output_mode": "anomaly"}, {"region": [-50.0, 40.0, 300.0, 60.0]}),
    "resnet": (TrainingTask, {"kind": "resnet"}, {}),
    "unet": (TrainingTask, {"kind": "unet"}, {}),
    "linear": (TrainingTask, {"kind": "linear"}, {}),
    "downscaling": (DownscalingTask, {"height": 16, "width": 32}, {}),
    "downscaling anomaly": (DownscalingTask, {"height": 16, "width": 32, "output_mode": "anomaly"}, {}),
    "projection": (ProjectionTask, PROJECTION, {}),
    "projection resnet": (ProjectionTask, PROJECTION | {"kind": "resnet"}, {}),
    "projection linear": (ProjectionTask, PROJECTION | {"kind": "linear"}, {}),
}


@pytest.fixture(scope="module")
def datasets(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data of the tasks."""
    root = tmp_path_factory.mktemp("tasks")
    coarse, fine = (make_dataset(channels=CHANNELS, years=1, shape=shape) for shape in ((8, 16), (16, 32)))
    pair(PairConfig(coarse=str(coarse), fine=str(fine), output=str(root / "pairs.json")))
    write_scenarios(root / "in", grid=regular_grid(22.5), experiments=["ssp126"], members=1, first_year=2014)
    packing: dict[str, Any] = {"layout": "climatebench", "frequency": "yr", "climatology": False}
    pack(PackConfig(input=str(root / "in"), output=str(root / "years"), grid_spacing_deg=None, **packing))
    return {"TrainingTask": coarse, "DownscalingTask": root / "pairs.json", "ProjectionTask": root / "years"}


class Engine:
    """Calls the network as DeepSpeed's engine does."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.module(*arguments, **options)


def task_of(case: str, datasets: dict[str, Path]) -> TrainingTask:
    """The task of this case, two samples a micro-batch."""
    kind, model, data = CASES[case]
    config = FinetuneConfig(
        run_folder="unused",
        data=DataConfig(dataset=str(datasets[kind.__name__]), micro_batch_size=2, micro_batches_per_step=1, **data),
        model=ModelConfig(**MODEL | model),
    )
    return kind(config)


def on_device(spec: BatchSpec, samples: int) -> Any:
    """A micro-batch as the reader gives it."""
    return spec.in_buffer(torch.empty(spec.nbytes(samples), dtype=torch.uint8, device=META), samples)


@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_device(case: str, datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "device", lambda: META)
    with MetaDevice(monkeypatch) as device:
        task = task_of(case, datasets)
        training = task.prepare_data(None)
        engine = Engine(task.build_network().to(META).train())
        for step in range(3):
            first = len(device.waits)
            for micro_batch in training.sampler.micro_batches(step):
                builder = training.builders[micro_batch.source]
                batch = builder.assemble(micro_batch, on_device(builder.spec, len(micro_batch.samples)))
                task.loss(engine, batch, training.weight_H).backward()
            assert step == 0 or device.waits[first:] == []
    assert all(parameter.grad is not None for parameter in engine.module.parameters() if parameter.requires_grad)


def test_no_band_of_mirror_images_waits_for_the_device(
    datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which samples are mirrored is decided on the host, and chooses static fields and solar inputs on the device."""
    monkeypatch.setattr(process_group, "device", lambda: META)
    with MetaDevice(monkeypatch) as device:
        task = task_of("augmented", datasets)
        task.band = RowBand(place=1, size=4, group="none")
        training = task.prepare_data(None)
        first = len(device.waits)
        for micro_batch in training.sampler.micro_batches(0):
            builder = training.builders[micro_batch.source]
            batch = builder.assemble(micro_batch, on_device(builder.spec, len(micro_batch.samples)))
            assert batch.x_BVHW.shape[-2:] == (2, 16)
        assert device.waits[first:] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_a_gpu(case: str, datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with torch's own check, which refuses what waits; the first step compiles kernels."""
    gpu = torch.device("cuda", torch.cuda.current_device())
    monkeypatch.setattr(process_group, "device", lambda: gpu)
    task = task_of(case, datasets)
    training = task.prepare_data(None)
    engine = Engine(task.build_network().to(gpu).train())
    losses = []
    for step in range(4):
        (micro_batch,) = training.sampler.micro_batches(step)
        builder = training.builders[micro_batch.source]
        raw = prefetch.read_now(builder.spec, micro_batch.samples, gpu)
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            losses.append(task.loss(engine, builder.assemble(micro_batch, raw), training.weight_H))
            losses[-1].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


def checkpoint_of(task: TrainingTask) -> Any:
    """An untrained checkpoint of the task, without weights."""
    data = task.prepare_data(None)
    metadata = CheckpointMetadata(
        step=1, config=task.model, normalisation=data.normalisation, in_variables=data.in_variables,
        out_variables=data.out_variables, training=data.training_metadata,
    )  # fmt: skip
    return SimpleNamespace(path="checkpoint", metadata=metadata, load_into=lambda network: None)


def states(checkpoint: Any, task: TrainingTask) -> Callable[[], object]:
    """Forecasts of states in physical units, as `predict` makes them."""
    source = task.dataset.select(None)[0]
    held = ShardInitialConditions(source)
    climatology, options = ShardClimatology(source), {"calendar": source.calendar, "variables": None, "device": META}
    model = StateForecaster(checkpoint, held, climatology=climatology, **options)  # type: ignore[arg-type]
    state_BIHW = np.stack([held.read(t)[[source.channels.index(v) for v in model.dynamic]] for t in (3, 5)])
    return lambda: model.step(state_BIHW, source.hours[[3, 5]].tolist(), [6.0, 12.0])


def packed(checkpoint: Any, task: TrainingTask, rollout_hours: float | None = None) -> Callable[[], object]:
    """Forecasts of a packed source, as `evaluate` makes them."""
    source = task.dataset.select(None)[0]
    model = Forecaster(checkpoint, source, variables=CHANNELS[1:], device=META, rollout_hours=rollout_hours)
    return lambda: model.forecast([Sample(time_index=3, lead_steps=1), Sample(time_index=5, lead_steps=2)])


def downscaled(checkpoint: Any, task: DownscalingTask) -> Callable[[], object]:
    """Fields of `evaluate` and `predict`."""
    paired = task.pairs.select(None)[0]
    model = TrainedDownscaler(checkpoint, paired.coarse, paired.fine, variables=None, device=META)
    coarse = CoarseReader(paired.coarse, climatology=True).read([3, 5])
    return lambda: model.fine(coarse)


def projected(checkpoint: Any, task: ProjectionTask) -> Callable[[], object]:
    """Years of `evaluate` and `predict`."""
    model, source = ProjectionModel(checkpoint, META), task.dataset.select(None)[0]
    return lambda: model.project(source, [5, 9])


FORECASTS: dict[str, Callable[..., Callable[[], object]]] = {
    "anomaly": states, "full": states, "region": packed, "window": packed,
    "rollout": lambda *found: packed(*found, rollout_hours=6.0),
    "downscaling": downscaled, "downscaling anomaly": downscaled, "projection": projected,
}  # fmt: skip


@pytest.mark.parametrize("case", FORECASTS)
def test_a_forecast_waits_for_its_result_only(
    case: str, datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "device", lambda: META)
    monkeypatch.setattr(batch_builder, "read_now", lambda spec, samples, device: on_device(spec, len(samples)))
    with MetaDevice(monkeypatch) as device:
        task = task_of(case, datasets)
        forecast = FORECASTS[case](checkpoint_of(task), task)
        forecast()
        first = len(device.waits)
        forecast()
        assert device.waits[first:] == []
