"""A device without data: operators on torch's `meta` device, watched for what would make a host wait for a GPU.

The meta device runs forward and backward passes of any operator without a GPU, and cannot give values to the host. What
it lets pass and a GPU would not, or would wait for, is found here.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class MetaDevice(TorchDispatchMode):
    """Records in `waits` the operators that would copy from pageable memory to the device.

    A tensor on the device that no operator made was made from numbers of Python, as `torch.tensor` and lists as
    indices do: a copy too. It is found where it is first used.

    Raises:
        RuntimeError: tensors of host and device in one operator (0-dimensional ones of the host are allowed), or one
            value of the device that the host asks for (this one by torch itself). Whole tensors may be read: as 0.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._made: dict[int, Any] = {}  # keeps storages alive, so that no address is that of two in turn
        self._pinned: dict[int, Any] = {}
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda host: self._pin(host))
        monkeypatch.setattr(torch, "autocast", lambda kind, **options: nullcontext())  # unknown there
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)

    def _pin(self, host: Tensor) -> Tensor:
        self._pinned[_storage(host)] = host
        return host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode, torch does not take operators such as `to` apart by itself
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [t for t in tensors if t.device == META]
        here = [t for t in tensors if t.device != META]
        for t in there:
            if _storage(t) not in self._made:
                self.waits.append(f"{func}: made of numbers {tuple(t.shape)}")
                self._made[_storage(t)] = t.untyped_storage()
        if func in _COPIES and there and torch.device(kwargs.get("device", META)) != META:  # the host reads a result
            return torch.zeros(there[0].shape, dtype=kwargs.get("dtype", there[0].dtype))
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.device == META]
        self._made |= {_storage(t): t.untyped_storage() for t in made}
        if func in _COPIES:
            if here and made and not (kwargs.get("non_blocking") and _storage(here[0]) in self._pinned):
                self.waits.append(f"{func}: from pageable memory {tuple(here[0].shape)}")
        elif there and any(t.ndim for t in here):
            raise RuntimeError(f"{func} mixes tensors of host and device")
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
