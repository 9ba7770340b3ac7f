"""A plan as text."""

from climax_hpc.tools.plan.result import Plan
from climax_hpc.utils.formatting import counted, readable_size

_NAMES = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "buffers": "buffers (batch, buckets)",
}


def as_text(plan: Plan) -> str:
    """The plan as text, one table per section."""
    sections = (_head(plan), _memory(plan), _fillings(plan), _flop(plan), _time(plan))
    return "\n\n".join(["\n".join(section) for section in sections])


def _head(plan: Plan) -> list[str]:
    devices = plan.nodes * plan.devices_per_node
    return [
        f"{plan.parameters / 1e6:.1f} M parameters on {devices} × {plan.device} "
        f"({counted(plan.nodes, 'node', 'nodes')}), {plan.samples_per_step} samples per step, "
        f"{counted(plan.micro_batches_per_rank, 'pass', 'passes')} per device",
        f"device figures: {plan.device_source}",
        *_idle(plan),
    ]


def _idle(plan: Plan) -> list[str]:
    if not plan.idle_per_node:
        return []
    all_of_node = plan.devices_per_node + plan.idle_per_node
    shared = plan.nodes * plan.devices_per_node // plan.sequence_parallel * plan.micro_batches_per_rank
    return [
        f"of the {all_of_node} devices of a node, {plan.devices_per_node} are used: data.micro_batches_per_step = "
        f"{shared} cannot be shared evenly by more; --devices_per_node {all_of_node} says which settings can"
    ]


def _memory(plan: Plan) -> list[str]:
    rows = [f"  {_NAMES[part]:<28}{readable_size(size):>12}" for part, size in plan.memory.parts.items()]
    state = f"{'fits' if plan.fits else 'DOES NOT FIT'} in {readable_size(plan.memory_available)}"
    fix = "" if plan.fits else _fix(plan)
    return [
        f"peak memory per device, at the {plan.memory.moment}",
        *rows,
        f"  {'total':<28}{readable_size(plan.memory.total):>12}   {state}{fix}",
        f"  largest data.micro_batch_size that fits: {plan.largest_micro_batch_size}",
        f"  host memory of the first node for writing a checkpoint: {readable_size(plan.checkpoint_bytes)}",
    ]


def _fix(plan: Plan) -> str:
    if plan.largest_micro_batch_size:
        return f": set data.micro_batch_size to {plan.largest_micro_batch_size} or less"
    return ": raise train.zero_stage, use model.activation_checkpointing, or a larger device"


def _fillings(plan: Plan) -> list[str]:
    """The settings for each size of memory."""
    rows = [
        f"  {one.memory_gb:>5g} GB {one.micro_batch_size:>24}{one.micro_batches_per_step:>30}"
        f"{readable_size(one.bytes):>12}"
        if one.micro_batch_size and one.bytes
        else f"  {one.memory_gb:>5g} GB {'does not fit':>24}"
        for one in plan.fillings
    ]
    title = f"same samples per step on {plan.nodes * plan.devices_per_node} devices of other memory"
    return [title, f"{'':<10}{'data.micro_batch_size':>24}{'data.micro_batches_per_step':>30}{'needs':>12}", *rows]


def _flop(plan: Plan) -> list[str]:
    rows = [f"  {part:<32}{value / 1e12:>12.4g}" for part, value in plan.flop.items()]
    return ["TFLOP per device and step", *rows, f"  {'total':<32}{sum(plan.flop.values()) / 1e12:>12.4g}"]


def _time(plan: Plan) -> list[str]:
    sent = sum(plan.communication_bytes.values())
    return [
        f"{'time':<36}{'roofline':>12}{f'at {plan.utilisation:.0%} of it':>18}",
        _line("  forward and backward", plan.compute_seconds, plan.compute_seconds / plan.utilisation),
        _line("  optimiser", plan.optimiser_seconds, plan.optimiser_seconds / plan.utilisation),
        _line(f"  communication, {readable_size(sent)}", plan.communication_seconds, plan.communication_seconds),
        _line("  step", plan.step_seconds, plan.expected_step_seconds),
        f"{'  samples/s':<36}{plan.samples_per_second:>12.4g}{plan.expected_samples_per_second:>18.4g}",
        f"{f'  days for {plan.steps} steps':<36}{plan.days:>12.4g}{plan.expected_days:>18.4g}",
        f"{'  read bandwidth needed':<48}{readable_size(plan.read_bytes_per_second) + '/s':>18}",
    ]


def _line(name: str, best: float, expected: float) -> str:
    return f"{name:<36}{_seconds(best):>12}{_seconds(expected):>18}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
