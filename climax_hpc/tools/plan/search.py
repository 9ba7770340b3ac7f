"""`climax-hpc plan --search true`: the layouts of a training that fit the devices, fastest first."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.devices import chosen_device
from climax_hpc.tools.plan.estimate import Estimate, estimate
from climax_hpc.tools.plan.memory import Memory
from climax_hpc.tools.plan.micro_batch import MOST_SAMPLES
from climax_hpc.utils.files import write_json
from climax_hpc.utils.formatting import counted, readable_size


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Settings that give the same global batch, and what they need of each device."""

    zero_stage: int
    zero_hpz: int
    """Devices that share a second copy of the parameters; 1: none."""
    sequence_parallel: int
    activation_checkpointing: bool
    micro_batch_size: int
    micro_batches_per_step: int
    micro_batches_per_rank: int
    """Passes of a device in one optimiser step."""
    memory: Memory
    communication_bytes: float
    """Sent by a device in one step."""
    step_seconds: float
    """At the roofline."""
    expected_step_seconds: float
    """With computation at `utilisation` of the roofline."""
    expected_days: float

    @classmethod
    def of(cls, config: PlanConfig, found: Estimate) -> "Layout":
        """From a config and its estimate."""
        data, train = config.data, config.train
        return cls(
            zero_stage=train.zero_stage,
            zero_hpz=train.zero_hpz,
            sequence_parallel=train.sequence_parallel,
            activation_checkpointing=config.model.activation_checkpointing,
            micro_batch_size=data.micro_batch_size,
            micro_batches_per_step=data.micro_batches_per_step,
            micro_batches_per_rank=found.shape.micro_batches_per_rank,
            memory=found.memory,
            communication_bytes=sum(asdict(found.sent).values()),
            step_seconds=found.step,
            expected_step_seconds=found.expected,
            expected_days=train.steps * found.expected / 86400,
        )

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """All but the micro-batch."""
        return self.zero_stage, self.zero_hpz, self.sequence_parallel, self.activation_checkpointing


@dataclass(frozen=True, kw_only=True)
class Search:
    """All layouts that fit, fastest first, and why the others do not."""

    device: str
    nodes: int
    devices_per_node: int
    samples_per_step: int
    steps: int
    utilisation: float
    memory_available: float
    """Least of any layout: on a processor the copy of a checkpoint differs."""
    layouts: list[Layout]
    refused: dict[str, int]
    """Reason -> number of layouts."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        content = asdict(self)
        for row, layout in zip(content["layouts"], self.layouts, strict=True):
            row["memory"]["total"] = layout.memory.total
        return content


def print_search(config: PlanConfig) -> None:
    """Print the layouts that fit, and write all of them as JSON if requested.

    Raises:
        UserError: unknown device.
    """
    found = search(config)
    print(as_text(found))
    if config.json:
        write_json(Path(config.json), found.to_dict())


def search(config: PlanConfig) -> Search:
    """Estimate every layout with the samples per step of `config`."""
    device = chosen_device(config)
    per_node = config.devices_per_node or device.per_node
    layouts: list[Layout] = []
    refused: Counter[str] = Counter()
    too_large: list[Memory] = []
    available = device.memory * (1 - config.memory_reserve)
    for choice in _choices(config, per_node):
        try:
            changed = choice.apply(config)
            found = estimate(changed, device, per_node)
        except UserError as error:
            refused[re.split(": |; ", str(error))[0]] += 1
            continue
        available = min(available, found.available)
        if found.fits:
            layouts.append(Layout.of(changed, found))
        else:
            too_large.append(found.memory)
    if too_large:
        least = readable_size(min(memory.total for memory in too_large))
        refused[f"more than the memory, the least of them {least}"] = len(too_large)
    layouts.sort(key=lambda layout: (float(f"{layout.expected_step_seconds:.6g}"), layout.memory.total))
    return Search(
        device=config.device,
        nodes=config.nodes,
        devices_per_node=per_node,
        samples_per_step=_samples(config),
        steps=config.train.steps,
        utilisation=config.utilisation,
        memory_available=available,
        layouts=layouts,
        refused=dict(refused),
    )


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What differs between layouts."""

    stage: int
    hpz: int
    sequence: int
    checkpointing: bool
    B: int

    def apply(self, config: PlanConfig) -> PlanConfig:
        """The config of this layout.

        Raises:
            UserError: settings that do not go together.
        """
        parts = _samples(config) // self.B
        return replace(
            config,
            model=replace(config.model, activation_checkpointing=self.checkpointing),
            data=replace(config.data, micro_batch_size=self.B, micro_batches_per_step=parts),
            train=replace(config.train, zero_stage=self.stage, zero_hpz=self.hpz, sequence_parallel=self.sequence),
        )


def _samples(config: PlanConfig) -> int:
    return config.data.micro_batch_size * config.data.micro_batches_per_step


def _choices(config: PlanConfig, per_node: int) -> Iterator[_Choice]:
    """Every combination; with ranks that cannot share the samples of a step, one that is refused for it.

    On several nodes stage 3 is tried with a second copy of the parameters in every node too.
    """
    ranks = config.nodes * per_node
    stages = [(0, 1), (1, 1), (2, 1), (3, 1)] + ([(3, per_node)] if 1 < per_node < ranks else [])
    for sequence in _divisors(ranks):
        share, rest = divmod(_samples(config), ranks // sequence)
        sizes = [1] if rest else [B for B in _divisors(share) if B <= MOST_SAMPLES]
        for (stage, hpz), checkpointing, B in product(stages, (False, True), sizes):
            yield _Choice(stage=stage, hpz=hpz, sequence=sequence, checkpointing=checkpointing, B=B)


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def as_text(found: Search) -> str:
    """One line for each ZeRO stage, sequence parallelism and checkpointing, with its fastest micro-batch."""
    best: dict[tuple[int, int, int, bool], Layout] = {}
    for layout in found.layouts:
        best.setdefault(layout.kind, layout)
    unit, factor = ("GB", 1e9) if any(one.memory.total >= 1e9 for one in best.values()) else ("MB", 1e6)
    lines = [
        f"{found.samples_per_step} samples per step on {found.nodes * found.devices_per_node} × {found.device} "
        f"({counted(found.nodes, 'node', 'nodes')}), {readable_size(found.memory_available)} each: "
        f"{len(found.layouts)} layouts fit",
        f"the fastest of each kind at {found.utilisation:.0%} of the roofline; step [s], days for {found.steps} steps, "
        f"bytes [{unit}]",
        "",
        f"  {_TITLES}",
        *(f"  {_row(layout, factor)}" for layout in best.values()),
    ]
    if found.refused:
        lines += ["", "left out", *(f"  {count:>5}  {reason}" for count, reason in grouped(found.refused))]
    return "\n".join(lines)


def grouped(refused: Mapping[str, int]) -> list[tuple[int, str]]:
    """Number of layouts and reason, most layouts first; of reasons that differ in numbers alone, the first one.

    Many ranks have many divisors, and each of them is a `train.sequence_parallel` that may be refused.
    """
    groups: dict[str, list[str]] = {}
    for reason in refused:
        groups.setdefault(re.sub(r"\d+", "N", reason), []).append(reason)
    rows = [
        (sum(refused[one] for one in alike), alike[0] + (f" (and {len(alike) - 1} more like it)" if alike[1:] else ""))
        for alike in groups.values()
    ]
    return sorted(rows, key=lambda row: -row[0])


_TITLES = "ZeRO  S  ckpt  batch passes     step    days  memory |  param   grad  optim  activ buffer |   sent"


def _row(layout: Layout, factor: float) -> str:
    checkpointed = "yes" if layout.activation_checkpointing else "no"
    zero = f"{layout.zero_stage}+{layout.zero_hpz}" if layout.zero_hpz > 1 else str(layout.zero_stage)
    cells = [
        f"{zero:>4} {layout.sequence_parallel:>2}  {checkpointed:>4}",
        f"{layout.micro_batch_size:>6} {layout.micro_batches_per_rank:>6}",
        f"{layout.expected_step_seconds:>8.3g} {layout.expected_days:>7.3g} {layout.memory.total / factor:>7.2f} |",
        *(f"{size / factor:>6.2f}" for size in layout.memory.parts.values()),
        f"| {layout.communication_bytes / factor:>6.2f}",
    ]
    return " ".join(cells)
