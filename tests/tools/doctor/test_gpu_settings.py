"""Variables of CUDA and NCCL: named where they are set, with what some of them cost."""

import os

import pytest

from climax_hpc.tools.doctor.gpu_settings import apply, gpu_settings

PLAIN = {"PATH": "/bin", "NCCL_DEBUG": "", "MY_NCCL_X": "1"}


def test_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert not apply(PLAIN)
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/nvidia0")
    assert apply(PLAIN)
    assert (gpu_settings(PLAIN).status, gpu_settings(PLAIN).found) == ("ok", "no variable is set")


def test_what_is_set_is_named() -> None:
    found = gpu_settings(PLAIN | {"NCCL_SOCKET_IFNAME": "ib0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
    assert apply({"NCCL_SOCKET_IFNAME": "ib0"})
    assert (found.status, found.found) == ("ok", "CUBLAS_WORKSPACE_CONFIG=:4096:8, NCCL_SOCKET_IFNAME=ib0")


@pytest.mark.parametrize(
    ("name", "value", "cost"),
    [
        ("TORCH_NCCL_BLOCKING_WAIT", "1", "the host waits for every collective"),
        ("NVIDIA_TF32_OVERRIDE", "1", "float32 is rounded to TF32 everywhere"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", "does not end the rank"),
    ],
)
def test_what_costs_something_is_a_warning(name: str, value: str, cost: str) -> None:
    found = gpu_settings({name: value})
    assert found.status == "warn"
    assert cost in found.fix
    assert gpu_settings({name: "3"}).status == "ok"
