"""Forward, loss and backward of a whole model with our front end and with the textbook one; same trunk."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from climax_hpc.kernels.benchmarking import Inspection, Machine, Row, Stopwatch, check_same, inspect, step
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.variable_aggregation.bench import Size
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.reference import TextbookClimaX

STEPS = {
    "step_32x64": ModelConfig(dropout=0, drop_path=0),
    "step_128x256": ModelConfig(height=128, width=256, patch=4, dropout=0, drop_path=0),
}
BATCH = 2
LONG = 20.0  # [s]; longer steps are timed in the runs that check them
TOLERANCE = 1e-3  # gradients through eight float32 blocks amplify the 1e-5 of the front end


def step_rows(case: str, watch: Stopwatch, machine: Machine) -> list[Row]:
    """Time and memory in float32, and time under bfloat16 autocast as case `…_bf16`."""
    config, device = STEPS[case], watch.device
    torch.manual_seed(0)
    model = ClimaXNetwork(config).to(device)
    with torch.no_grad():
        model.aggregator.query.normal_()  # at its initial value 0, the query hides the gradient of the key weight
    textbook = TextbookClimaX(config).to(device)
    textbook.load_state_dict(model.state_dict())
    shape = (2, BATCH, len(config.variables), config.height, config.width)
    batch_BVHW, target_BVHW = torch.randn(shape).to(device).unbind()
    weight_H = (torch.rand(config.height) + 0.1).to(device)
    lead_hours_B = torch.tensor([6.0, 72.0], device=device)

    def loss_of(model: ClimaXNetwork, autocast: bool = False) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                h_BLPO = model(batch_BVHW, lead_hours_B, config.variables, config.variables, patched=True)
            return lat_weighted_loss(h_BLPO, target_BVHW, weight_H, config.patch)[0]

        return forward

    leaves, textbook_leaves = list(model.parameters()), list(textbook.parameters())
    ours = inspect(loss_of(model), leaves, watch=watch)
    theirs = inspect(loss_of(textbook), textbook_leaves, watch=watch)
    check_same(case, _without_key_bias(model, ours), _without_key_bias(model, theirs), TOLERANCE)
    ours.results.clear()
    theirs.results.clear()
    runs = {
        "ours": step(loss_of(model), leaves),
        "bf16": step(loss_of(model, autocast=True), leaves),
        "textbook": step(loss_of(textbook), textbook_leaves),
    }
    known = {"ours": ours.seconds, "textbook": theirs.seconds} if ours.seconds > LONG else {}
    times = watch.times(runs, known)
    baseline = {"textbook": times["textbook"].median}
    rows = machine.time_rows(case, times["ours"], baseline, flop=step_flop(config))
    rows += machine.memory_rows(case, ours, {"textbook": theirs}, batch_BVHW.nbytes)
    baseline["float32"] = times["ours"].median
    return rows + [replace(row, case=f"{case}_bf16") for row in machine.time_rows(case, times["bf16"], baseline)]


def step_flop(config: ModelConfig) -> float:
    """FLOP of forward and backward of the front end and of every linear layer and attention of the trunk."""
    D, V = config.embed_dim, len(config.variables)
    size = Size(B=BATCH, V=V, H=config.height, W=config.width, p=config.patch, D=D, N=config.heads)
    L = size.patches / BATCH
    block = 2 * D**2 * (4 + 2 * config.mlp_ratio) + 4 * L * D  # qkv, projection and MLP; scores and values
    head = 2 * D * (config.decoder_depth * D + config.patch**2 * V)
    return size.flop() + 3 * size.patches * (config.depth * block + head)


def _without_key_bias(model: ClimaXNetwork, run: Inspection) -> list[Tensor]:
    """Results without the key bias, whose gradient is 0 up to rounding errors of the textbook form."""
    names = ["loss", *(name for name, _ in model.named_parameters())]
    D = model.config.embed_dim
    return [
        torch.cat([t[:D], t[2 * D :]]) if name == "aggregator.in_proj_bias" else t
        for name, t in zip(names, run.results, strict=True)
    ]
