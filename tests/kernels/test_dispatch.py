"""Which form runs: by device, forced by the environment, and refusals that tell the mend."""

import pytest
import torch

from climax_hpc.kernels import dispatch


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIMAX_HPC_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def fake_device(kind: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Only device and type are looked at; no GPU is needed to ask."""

    class Fake:
        device = torch.device(kind)

    Fake.dtype = dtype  # type: ignore[attr-defined]
    return Fake()  # type: ignore[return-value]


@pytest.mark.parametrize("choice", [None, "", "auto"])
def test_auto_goes_by_device(monkeypatch, choice):
    if choice is not None:
        monkeypatch.setenv("CLIMAX_HPC_KERNELS", choice)
    assert not dispatch.use_triton(torch.zeros(1))
    assert dispatch.use_triton(fake_device("cuda"))
    assert dispatch.use_triton(fake_device("cuda", torch.bfloat16))
    assert not dispatch.use_triton(fake_device("cuda", torch.float64))


def test_torch_is_taken_everywhere(monkeypatch):
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "torch")
    assert not dispatch.use_triton(fake_device("cuda"))


def test_interpreter_takes_cpu_tensors_only_when_asked(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not dispatch.use_triton(torch.zeros(1))
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "triton")
    assert dispatch.use_triton(torch.zeros(1))


def test_triton_where_it_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "triton")
    with pytest.raises(RuntimeError, match=r"the tensor is on 'cpu', they need a CUDA or ROCm device .* or set CLIMAX"):
        dispatch.use_triton(torch.zeros(1))
    with pytest.raises(RuntimeError, match="they take float32, bfloat16 and float16, not float64"):
        dispatch.use_triton(fake_device("cuda", torch.float64))


def test_gpu_without_triton_is_an_error_not_a_silent_change(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install triton"):
        dispatch.use_triton(fake_device("cuda"))


def test_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "cutlass")
    with pytest.raises(ValueError, match="CLIMAX_HPC_KERNELS='cutlass': use one of triton, torch, auto"):
        dispatch.use_triton(torch.zeros(1))
