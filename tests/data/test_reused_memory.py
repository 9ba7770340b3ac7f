"""Memory of batches is used again only when no tensor looks at it."""

import torch

from climax_hpc.data.reused_memory import ReusedMemory, memory_on

CPU = torch.device("cpu")
SHAPE = (2, 3, 128, 256)


def test_memory_is_used_again_when_the_last_view_ends() -> None:
    memory = ReusedMemory(CPU)
    x = memory.empty(SHAPE)
    place, view = x.data_ptr(), x[1, :, 5]
    del x
    assert memory.empty(SHAPE).data_ptr() != place  # the view still needs it
    view.fill_(3.0)
    del view
    assert place in {y.data_ptr() for y in [memory.empty(SHAPE) for _ in range(3)]}


def test_what_a_gradient_needs_is_kept() -> None:
    memory = ReusedMemory(CPU)
    weight = torch.ones(SHAPE, requires_grad=True)
    total = (memory.empty(SHAPE).fill_(2.0) * weight).sum()
    for _ in range(5):
        memory.empty(SHAPE).fill_(9.0)
    total.backward()
    assert weight.grad is not None
    assert bool((weight.grad == 2.0).all())


def test_few_blocks_wait_and_other_sizes_are_not_mixed_up() -> None:
    memory = ReusedMemory(CPU)
    held = [memory.empty((2, n, 128, 256)) for n in range(1, 9)]
    assert [tuple(x.shape) for x in held] == [(2, n, 128, 256) for n in range(1, 9)]
    assert all(x.data_ptr() % 64 == 0 for x in held)
    del held
    assert len(memory._free) == 4


def test_small_tensors_come_from_torch() -> None:
    memory = ReusedMemory(CPU)
    del (x := [memory.empty((2, 3))])[:]
    assert not x
    assert not memory._free


def test_all_sources_share_the_memory_of_a_device() -> None:
    assert memory_on(torch.device("cpu")) is memory_on(CPU)
    assert memory_on(torch.device("meta")) is not memory_on(CPU)


def test_a_smaller_batch_takes_the_memory_of_a_larger_one() -> None:
    memory = ReusedMemory(CPU)
    x = memory.empty(SHAPE)
    place = x.data_ptr()
    del x
    x = memory.empty((2, 2, 128, 256))
    assert (x.data_ptr(), x.untyped_storage().nbytes()) == (place, 4 * x.numel())
    del x
    assert memory.empty(SHAPE).data_ptr() == place
