"""Training with members: the loss by its definition, who gets which noise, fine-tuning a deterministic network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.training import DataConfig, FinetuneConfig, PretrainConfig, TrainConfig
from climax_hpc.data.batches import Batch
from climax_hpc.data.sampler import Sampler, SourceTimes
from climax_hpc.errors import UserError
from climax_hpc.kernels.ensemble_crps.reference import ensemble_crps_of_fields_reference
from climax_hpc.kernels.testing import relative_error
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.model.noise import member_noise
from climax_hpc.model.reference import TextbookClimaX
from climax_hpc.tasks.forecast import starting_weights
from climax_hpc.training.loss import Members, batch_loss
from climax_hpc.training.optimizer import parameter_groups, trunk_matrices

from .conftest import distance, losses, metrics, train_here
from .processes import Ranks

NAMES = ("2m_temperature", "geopotential_500", "temperature_850")
SIZE: dict[str, Any] = {
    "variables": NAMES, "height": 8, "width": 16, "patch": 2, "embed_dim": 12, "depth": 1, "heads": 2,
    "decoder_depth": 1, "dropout": 0.0, "drop_path": 0.0, "noise_dim": 3,
}  # fmt: skip
CONV = {"blocks": "conv", "levels": 2, "input_skip": True}
KEYS = (5, 2**63 + 1)


class Engine:
    """What the loss needs of an engine."""

    def __init__(self, network: Any) -> None:
        self.module = network

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        return self.module(*arguments, **options)


def random_network(kind: type, **changes: Any) -> Any:
    """In float64, all parameters random."""
    draw = torch.Generator().manual_seed(0)
    network = kind(ModelConfig(**(SIZE | changes))).double()
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * scale)
    return network


def random_batch(rollout: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(1)
    x_BVHW = torch.randn(2, 3, 8, 16, generator=draw, dtype=torch.float64)
    y_BKOHW = torch.randn(2, rollout, 3, 8, 16, generator=draw, dtype=torch.float64)
    x_BVHW[0, 1, :2] = torch.nan
    y_BKOHW[0, :, 2, 3:5] = torch.nan
    return Batch(
        in_variables=NAMES, out_variables=NAMES, x_BVHW=x_BVHW, x_BTVHW=None, lead_hours_B=torch.tensor([25.0, 150.0]),
        y_BOHW=y_BKOHW[:, 0], skip_BOHW=x_BVHW, r_BO=torch.rand(2, 3, generator=draw, dtype=torch.float64),
        s_BO=torch.rand(2, 3, generator=draw, dtype=torch.float64) + 0.5, noise_keys=KEYS,
        y_BKOHW=y_BKOHW if rollout > 1 else None, variable_weight_O=torch.tensor([1.0, 3.0, 0.5]),
    )  # fmt: skip


def by_hand(network: Any, batch: Batch, weight_H: Tensor, members: Members) -> Tensor:
    """Each member rolled out alone with its noise, then the CRPS of all by its definition, of each step."""
    assert batch.r_BO is not None
    assert batch.s_BO is not None
    r, s = batch.r_BO[..., None, None], batch.s_BO[..., None, None]
    targets = [batch.y_BOHW] if batch.y_BKOHW is None else list(batch.y_BKOHW.unbind(1))
    states, found = [batch.x_BVHW] * members.count, []
    for step, y_BOHW in enumerate(targets):
        forecasts = []
        for m, x_BVHW in enumerate(states):
            noise_B1Z = member_noise(0, KEYS, [m], 3, step).double()
            net = network(x_BVHW, batch.lead_hours_B, NAMES, NAMES, noise_BMZ=noise_B1Z)
            forecasts.append(r * x_BVHW.nan_to_num(0.0) + s * net)
        states = [f.masked_fill(batch.x_BVHW.isnan(), torch.nan) for f in forecasts]
        in_units = torch.stack([f / s for f in forecasts], dim=1)
        found.append(
            ensemble_crps_of_fields_reference(
                in_units, y_BOHW / s, weight_H, alpha=members.alpha, variable_weight_O=batch.variable_weight_O
            )[0]
        )
    return torch.stack(found).mean()


@pytest.mark.parametrize("rollout", [1, 3], ids=["direct", "roll-out"])
@pytest.mark.parametrize("changes", [{}, CONV], ids=["vit", "conv"])
def test_loss_and_gradients_are_those_of_each_member_alone(changes: dict[str, Any], rollout: int) -> None:
    members, weight_H = Members(count=3, alpha=0.9), torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    network, textbook = (random_network(kind, **changes) for kind in (build_network, TextbookClimaX))
    loss = batch_loss(Engine(network), random_batch(rollout), weight_H, members)
    expected = by_hand(textbook, random_batch(rollout), weight_H, members)
    assert relative_error(loss, expected) < 1e-12
    loss.backward()
    expected.backward()
    for (name, parameter), other in zip(network.named_parameters(), textbook.parameters(), strict=True):
        assert parameter.grad.abs().max() > 0, name
        if name != "aggregator.in_proj_bias":  # the key bias cancels in the softmax
            assert relative_error(parameter.grad, other.grad) < 1e-9, name


def test_one_member_trains_on_the_absolute_error() -> None:
    network, weight_H, batch = random_network(build_network), torch.linspace(0.5, 1.5, 8).double(), random_batch()
    loss = batch_loss(Engine(network), batch, weight_H, Members(count=1))
    noise_BMZ = member_noise(0, KEYS, [0], 3).double()
    error_BOHW = (
        network(batch.x_BVHW, batch.lead_hours_B, NAMES, NAMES, noise_BMZ=noise_BMZ) - batch.network_target()
    ).abs()
    weight_BOHW = weight_H[:, None].expand(error_BOHW.shape).masked_fill(error_BOHW.isnan(), 0)
    mean_BO = (weight_BOHW * error_BOHW.nan_to_num(0)).sum((2, 3)) / weight_BOHW.sum((2, 3))
    expected = (mean_BO @ torch.tensor([1.0, 3.0, 0.5]).double() / 4.5).mean()
    assert relative_error(loss, expected) < 1e-12


def test_noise_keys_do_not_depend_on_ranks_and_micro_batches() -> None:
    times = {"a": SourceTimes(segments=((0, 90),), min_lead_steps=1, max_lead_steps=4)}

    def keys(size: int, number: int, ranks: int = 1) -> dict[tuple[int, Any], int]:
        sampler = Sampler(times, seed=3, micro_batch_size=size, micro_batches_per_step=number)
        return {
            (step, sample, key)
            for rank in range(ranks)
            for step, batch in sampler.stream(0, 4, rank=rank, ranks=ranks)
            for sample, key in zip(batch.samples, batch.noise_keys, strict=True)
        }

    whole = keys(6, 2)
    assert len({key for _, _, key in whole}) == 48
    assert keys(6, 2, ranks=2) == keys(3, 4) == keys(2, 6, ranks=3) == whole
    other = Sampler(times, seed=4, micro_batch_size=6, micro_batches_per_step=2).micro_batches(0)[0]
    assert not set(other.noise_keys) & {key for _, _, key in whole}


def test_what_takes_noise_has_no_decay_and_stays_out_of_muon() -> None:
    for changes in ({}, CONV):
        network = build_network(ModelConfig(**(SIZE | changes)))
        names = {parameter: name for name, parameter in network.named_parameters()}
        noisy = {name for name in names.values() if "noise" in name}
        kept = {names[p] for p in parameter_groups(network, 0.1)[1]["params"]}
        assert noisy
        assert noisy <= kept
        assert not noisy & {names[p] for p in trunk_matrices(network)}


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"noise_dim": 0}, {"members": 2}, r"train.members = 2: .* model.noise_dim is 0: set it to 32, or leave out"),
        ({"drop_path": 0.1}, {"members": 2}, r"model.drop_path = 0.1: it would give .* set model.drop_path to 0"),
        ({}, {"members": 0}, r"train.members must be at least 1"),
        ({}, {"crps_alpha": 1.5}, r"train.crps_alpha must lie in \[0, 1\]"),
    ],
)  # fmt: skip
def test_refusals(model: dict[str, Any], train: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PretrainConfig(
            run_folder="r",
            data=DataConfig(dataset="d"),
            model=ModelConfig(**(SIZE | model)),
            train=TrainConfig(**train),
        )


@pytest.fixture
def tuned(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A fine-tuning with three members of a network that was trained without, and a year held out."""
    settings["model"] |= {"depth": 1, "levels": 2, "blocks": "conv", "input_skip": True}
    train_here(settings | {"run_folder": str(tmp_path / "start")}, tmp_path)
    settings["model"] |= {"noise_dim": 4}
    settings["data"] |= {"sources": ["A"], "micro_batches_per_step": 2, "validation_period": ["2004", "2004"]}
    settings["train"] |= {"members": 3, "validate_every": 3, "validation_batches": 2}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 0}
    return settings | {"checkpoint": str(tmp_path / "start")}


@pytest.mark.slow
def test_fine_tuning_begins_as_the_deterministic_network(tuned: dict[str, Any], tmp_path: Path) -> None:
    network = ModelConfig(**tuned["model"] | {"variables": tuple(tuned["model"]["variables"])})
    config = FinetuneConfig(
        run_folder="r",
        data=DataConfig(dataset="d"),
        model=network,
        train=TrainConfig(members=3),
        checkpoint=tuned["checkpoint"],
    )
    start, plain = starting_weights(config), load_checkpoint(tuned["checkpoint"])
    assert start is not None
    assert start.metadata.config == network
    names, lead_B = network.variables, torch.tensor([6.0, 48.0])
    x_BVHW = torch.randn(2, len(names), 8, 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    # One member: other batch sizes may round otherwise in a convolution.
    for checkpoint, noise in ((plain, {}), (start, {"noise_BMZ": member_noise(0, KEYS, [7], 4)})):
        built = build_network(checkpoint.metadata.config).eval()
        checkpoint.load_into(built)
        outputs.append(built(x_BVHW, lead_B, names, names[2:], **noise))
    assert torch.equal(outputs[1], outputs[0])
    back = replace(config, model=replace(network, noise_dim=0), train=TrainConfig(), checkpoint=str(tmp_path / "run"))
    train_here(tuned, tmp_path, verb="finetune")
    with pytest.raises(UserError, match=r"has noise_dim = 4, the config says model.noise_dim = 0: set model.noise_dim"):
        starting_weights(back)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"region": [-30.0, 60.0, 0.0, 180.0]}},
        {"data": {"window_hours": 24.0}},
        {"train": {"precision": "bfloat16", "zero_stage": 1}},
        pytest.param({"train": {"compile": True}}, marks=pytest.mark.exhaustive),
    ],
    ids=["region", "window", "bfloat16", "compiled"],
)
def test_other_kinds_of_training_learn_from_the_noise(
    tuned: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    for section, some in changes.items():
        tuned[section] |= some
    train_here(tuned, tmp_path, verb="finetune")
    weights = load_checkpoint(tmp_path / "run").weights
    learnt = [w.abs().max() for name, w in weights.items() if name.endswith("lead.noise.weight")]
    assert len(learnt) == 3
    assert min(learnt) > 1e-3


def validation_losses(run: Path) -> list[float]:
    return [row["validation_loss"] for row in metrics(run) if "validation_loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("rollout", [{}, {"rollout_steps": 2, "min_lead_hours": 6.0, "max_lead_hours": 6.0}])
def test_ranks_micro_batches_and_resuming_change_nothing(
    tuned: dict[str, Any], tmp_path: Path, rollout: dict[str, Any]
) -> None:
    tuned["data"] |= rollout
    whole, run = train_here(tuned, tmp_path, verb="finetune"), tmp_path / "run"
    found = load_checkpoint(run)
    assert found.metadata.config.noise_dim == 4
    spread = [w.abs().max() for name, w in found.weights.items() if name.endswith("lead.noise.weight")]
    assert len(spread) == 3
    assert min(spread) > 1e-3, "every block has learnt from the noise"
    assert len(validation_losses(run)) == 2
    weights = {name: w.clone() for name, w in found.weights.items()}
    again = tuned | {"resume_from": "step_00000003"}
    assert train_here(again, tmp_path, verb="finetune") == whole
    assert all(torch.equal(w, load_checkpoint(run).weights[name]) for name, w in weights.items())

    other = tuned | {"run_folder": str(tmp_path / "small"), "data": tuned["data"] | {"micro_batch_size": 1}}
    other["data"] |= {"micro_batches_per_step": 4}
    # Members are equal at first, so that rounding decides which of two is larger, and it differs with the batch size.
    assert train_here(other, tmp_path, verb="finetune") == pytest.approx(whole, rel=1e-3)
    assert validation_losses(tmp_path / "small") == pytest.approx(validation_losses(run), rel=1e-3)
    with Ranks(tuned | {"run_folder": str(tmp_path / "two")}, ranks=2, verb="finetune") as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [0, 0], errors
    assert losses(tmp_path / "two") == pytest.approx(whole, rel=1e-5)
    assert distance(tmp_path / "two", run) < 1e-3
