"""DeepSpeed's optimiser step with few kernels and without waits of the host, and a view of gradients not yet reduced.

DeepSpeed takes the norm of every parameter's gradient by itself and reads the result to see whether it is finite. Here
the guard (`step_guard.py`) has made sure of that before: a finite norm on every rank bounds the norm of the mean. So
norms are taken of many tensors at once, and nothing is read. The numbers are DeepSpeed's, to the bit in float32.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-6  # DeepSpeed's, beside the norm


def norms(tensors: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Norm of each tensor, computed in `dtype`."""
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))


def watch_gradients(engine: Any, see: Callable[[list[Tensor]], None]) -> None:
    """Call `see` with this rank's gradients of every backward pass before DeepSpeed reduces them.

    At stages 0 and 1 they are sums over the passes of a step so far, at stages 2 and 3 they come in several parts.
    """
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 3:
        name = "_DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads"
        _before(optimizer, name, lambda parameters, *_: see([parameter.grad for parameter in parameters]))
    elif stage == 2:
        _before(optimizer, "average_tensor", lambda bucket, dtype: _see_bucket(optimizer, bucket, dtype, see))
    else:
        _before(engine, "allreduce_gradients", lambda *_, **__: see(_accumulated(engine)))


def before_first_reduction(engine: Any, look: Callable[[], None]) -> None:
    """Call `look` where a pass first waits for other ranks: at stage 3 before it begins, else before gradients reduce.

    At stage 2 it is called before every further part of a pass too.
    """
    stage = engine.zero_optimization_stage()
    owner, method = {
        3: (engine, "forward"),
        2: (engine.optimizer, "average_tensor"),
    }.get(stage, (engine, "allreduce_gradients"))
    _before(owner, method, lambda *_, **__: look())


def before_update(engine: Any, look: Callable[[], None]) -> None:
    """Call `look` once all gradients of a step are reduced, before they are clipped and the weights are updated."""
    _before(engine, "_take_model_step", lambda *_, **__: look())


def _see_bucket(optimizer: Any, bucket: Tensor, dtype: torch.dtype, see: Callable[[list[Tensor]], None]) -> None:
    """A bucket of stage 2, once the streams that fill it have done so, as DeepSpeed waits for them."""
    from deepspeed.accelerator import get_accelerator

    for stream in optimizer.ipg_buckets[dtype].copy_streams:
        get_accelerator().current_stream().wait_stream(stream)
    see([bucket])


def _accumulated(engine: Any) -> list[Tensor]:
    """All gradients at stages 0 and 1."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "non_expert_gradients"):  # stage 1 in bfloat16: all of them in a few flat tensors
        return list(optimizer.non_expert_gradients)
    gradient = getattr(optimizer, "get_param_gradient_attribute", lambda parameter: parameter.grad)
    found = (gradient(parameter) for parameter in engine.module.parameters() if parameter.requires_grad)
    return [each for each in found if each is not None]


def _before(owner: Any, method: str, look: Callable[..., None]) -> None:
    original = getattr(owner, method)

    def run(*arguments: Any, **options: Any) -> Any:
        look(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, method, run)


def use_lean_step(engine: Any) -> None:
    """Replace what waits or starts a kernel for every parameter; not for float16, whose scaler must read."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        engine.clip_fp32_gradients = lambda: _clip_parameters(engine)
        return
    module = importlib.import_module(_defining(type(optimizer), "step").__module__)
    replaced: dict[str, Any] = {"is_invalid_grad_norm": lambda norm: False}
    if hasattr(optimizer, "non_expert_gradients"):
        replaced |= {"get_global_norm_of_tensors": _global_norm, "clip_tensors_by_global_norm": _clip_tensors}
        optimizer.get_grads_for_norm = lambda for_clipping=False: (
            optimizer.non_expert_gradients if for_clipping else (optimizer.non_expert_gradients, {})
        )
        optimizer.update_hp_grads = lambda clear_lp_grads=False: _accumulate(optimizer)
    else:
        optimizer.get_grad_norm_direct = lambda gradients, params: _partition_norm(optimizer, gradients, params)
    if stage == 2 and optimizer.overlap_comm:
        _order_streams(optimizer)
    step = optimizer.step

    def run(*arguments: Any, **options: Any) -> Any:
        with _names(module, replaced):
            return step(*arguments, **options)

    optimizer.step = run


def _defining(kind: type, method: str) -> type:
    return next(base for base in kind.__mro__ if method in vars(base))


@contextmanager
def _names(owner: Any, values: dict[str, Any]) -> Iterator[None]:
    """Attributes of a module or object, replaced inside the block."""
    before = {name: getattr(owner, name) for name in values}
    vars(owner).update(values)
    try:
        yield
    finally:
        vars(owner).update(before)


def _clip_parameters(engine: Any) -> None:
    """Clip at stage 0; gradients are the same on all ranks."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    norm = norms(gradients).pow(2).sum().pow(0.5)
    torch._foreach_mul_(gradients, _factor(engine.gradient_clipping(), norm))


def _factor(limit: float, norm: Tensor) -> Tensor:
    return (torch.full_like(norm, limit) / (norm + _EPSILON)).clamp(max=1.0)


def _global_norm(input_tensors: list[Tensor], **_: Any) -> Tensor:
    """Norm of the flat gradients at stage 1 in bfloat16, the same on all ranks."""
    return torch.linalg.vector_norm(norms(input_tensors))


def _clip_tensors(input_tensors: list[Tensor], max_norm: float, global_norm: Tensor, **_: Any) -> None:
    torch._foreach_mul_(input_tensors, _factor(max_norm, global_norm))


@torch.no_grad()
def _accumulate(optimizer: Any) -> None:
    """Add the bfloat16 gradients of a pass to the float32 ones at stage 1."""
    first: tuple[list[Tensor], list[Tensor]] = [], []
    further: tuple[list[Tensor], list[Tensor]] = [], []
    for group, sums, has in zip(
        optimizer.bf16_groups, optimizer.fp32_groups_gradients, optimizer.fp32_groups_has_gradients, strict=True
    ):
        for index, (parameter, total) in enumerate(zip(group, sums, strict=True)):
            if parameter.grad is None:
                continue
            high, low = further if has[index] else first
            high.append(total)
            low.append(parameter.grad.view(-1))
            parameter._hp_grad, has[index] = total, True
    if first[0]:
        torch._foreach_copy_(*first)
    if further[0]:
        torch._foreach_add_(*further)


def _partition_norm(optimizer: Any, gradients: Sequence[Tensor], params: Sequence[Any]) -> Tensor:
    """Norm over all ranks of one parameter group, of whose gradients each rank has a part."""
    parts = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)][: len(params)]
    total = (
        norms(parts, torch.float64).pow(2).sum()
        if parts
        else torch.zeros((), dtype=torch.float64, device=optimizer.device)
    )
    if hasattr(optimizer, "bit16_groups"):  # stages 1 and 2 add ranks in float32, stage 3 in float64
        total = total.float()
    torch.distributed.all_reduce(total, group=optimizer.dp_process_group)
    return total.pow(0.5)


def _order_streams(optimizer: Any) -> None:
    """Let the device wait for the overlapped reduction where DeepSpeed lets the host wait for the whole device."""
    from deepspeed.accelerator import get_accelerator

    accelerator, epilogue = get_accelerator(), optimizer.overlapping_partition_gradients_reduce_epilogue

    def wait(*_: Any) -> None:
        accelerator.current_stream().wait_stream(optimizer.reduction_stream)

    def run() -> None:
        with _names(accelerator, {"synchronize": wait}):
            epilogue()

    optimizer.overlapping_partition_gradients_reduce_epilogue = run
