"""Stage `ncu`: numbers from Nsight Compute's page, for the kernels that took longest."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = """run: step 1
==PROF== Profiling "values_kernel": 0%....100% - 9 passes
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value","Rule Name","Rule Description"
"0","7","values_kernel","Speed Of Light","Duration","ns","441,120","",""
"0","7","values_kernel","Speed Of Light","DRAM Throughput","%","12.5","",""
"0","7","values_kernel","Speed Of Light","","","","SOLBottleneck","Latency: low, ""compute"" too"
"0","7","values_kernel","Launch Statistics","Cluster Scheduling Policy","","PolicySpread","",""
"0","7","values_kernel","Launch Statistics","Registers Per Thread","register/thread","192","",""
"""


def test_numbers_of_a_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day.ncu import kernels, metrics

    assert "values_kernel" in vars(kernels)  # the sample page is of a kernel that there is
    found = list(metrics(PAGE.splitlines()))
    assert found == [("Duration", 441120.0, "ns"), ("DRAM Throughput", 12.5, "%"),
                     ("Registers Per Thread", 192.0, "register/thread")]  # fmt: skip
    assert list(metrics(["==ERROR== no counters"])) == []


def test_the_slowest_kernels_are_looked_at(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import ncu
    from benchmarks.gpu_day.record import Record

    ours = [name for name in vars(ncu.kernels) if name.endswith("_kernel")]
    profile = Record(tmp_path, "profile")
    for name, seconds in ((ours[-1], 2e-4), (ours[1], 3e-4), ("nvjet", 9e-4)):
        profile.add(f"kernel/front_end_128x256_b16/{name}", seconds, "s")
    assert ncu.slowest(Record(tmp_path, "ncu")) == [ours[1], ours[-1]]


@pytest.mark.parametrize(("tool", "message"), [("exit 0", "and 0 numbers"), ("echo; exit 9", "status 9")])
def test_a_tool_that_reads_nothing_is_a_failure(monkeypatch, tmp_path, tool, message):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import ncu
    from benchmarks.gpu_day.record import Record

    (tmp_path / "ncu").write_text(f"#!/bin/sh\n{tool}\n")
    (tmp_path / "ncu").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match=message):
        ncu.ncu(Record(tmp_path, "ncu", rehearsal=True))
