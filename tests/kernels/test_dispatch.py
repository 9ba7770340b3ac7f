"""Which form runs: by device, forced by the environment, and refusals that say how to fix it."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from climax_hpc.cli import main, run
from climax_hpc.errors import UserError
from climax_hpc.kernels import dispatch
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables


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
    with pytest.raises(UserError, match=r"the tensor is on 'cpu', they need a CUDA or ROCm device .* or set CLIMAX"):
        dispatch.use_triton(torch.zeros(1))
    with pytest.raises(UserError, match="they take float32, bfloat16 and float16, not float64"):
        dispatch.use_triton(fake_device("cuda", torch.float64))


def test_gpu_without_triton_is_an_error_not_a_silent_change(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install triton"):
        dispatch.use_triton(fake_device("cuda"))


def test_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "cutlass")
    with pytest.raises(UserError, match="CLIMAX_HPC_KERNELS='cutlass': use one of triton, torch, auto"):
        dispatch.use_triton(torch.zeros(1))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("cutlass", "CLIMAX_HPC_KERNELS='cutlass': use one of triton, torch, auto"),
        ("triton", "cannot run: the tensor is"),
    ],
)
def test_the_command_line_ends_in_one_line(monkeypatch, capsys, choice, message):
    """Through the operator, as in training: no traceback, exit status 2."""
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", choice)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "kernels", "--device", "cpu", "--cases", "[loss_128x256]"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("climax-hpc: error: ")
    assert error.count("\n") == 1


def test_a_wrong_choice_is_refused_in_the_backward_pass_too(monkeypatch):
    """An operator's own exception reaches the caller as it is, from autograd's threads as well."""
    maps = [torch.zeros(shape, requires_grad=True) for shape in ((1, 2, 4), (1, 2), (1, 2, 3, 4), (1, 2, 3), (3,))]
    o_BLD = aggregate_variables(torch.zeros(1, 2, 2, 2), *maps, 2)
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "cutlass")
    with pytest.raises(UserError, match="use one of triton, torch, auto"):
        o_BLD.sum().backward()


def test_training_refuses_a_wrong_choice_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIMAX_HPC_KERNELS", "cutlass")
    with pytest.raises(UserError, match="use one of triton, torch, auto"):
        run(["pretrain", "--run_folder", str(tmp_path / "run"), "--data.dataset", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_torch_brings_triton_or_the_package_works_without(tmp_path: Path) -> None:
    """Builds of torch for ROCm bring their own, in the same folder: this package must not add PyPI's."""
    needed = [Requirement(text) for text in importlib.metadata.requires("climax_hpc") or []]
    always = [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert "torch" in always
    assert not [name for name in always if "triton" in name]
    (tmp_path / "triton.py").write_text("raise ImportError('not installed')\n")
    modules = ("model.climax", "kernels.lat_weighted_loss.op", "kernels.variable_aggregation.op")
    code = "; ".join(f"import climax_hpc.{module}" for module in modules)
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, check=True)
