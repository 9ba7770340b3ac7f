"""Stage `tests`: the kernels' own tests on the device: float64 references, odd sizes, poisoned memory, same bits."""

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.gpu_day.record import Record

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "kernels" / "triton_kernels"


def tests(record: Record) -> None:
    """Counts of passed, failed and skipped tests, and the name of each that failed."""
    report = record.folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x" if record.rehearsal else "-q"]
    command += ["-m", "", "--tb=short", f"--confcutdir={FOLDER}", f"--rootdir={ROOT}", f"--junitxml={report}"]
    if not record.rehearsal and importlib.util.find_spec("xdist"):
        command += ["-n", "8"]  # most of the time goes into compiling
    if record.rehearsal:
        command += ["-k", "test_strided_inputs"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([*command, str(FOLDER)], cwd=ROOT, env=environment, check=False)
    suite = next(iter(ElementTree.parse(report).getroot().iter("testsuite")))
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    record.add("kernel_tests/passed", count["tests"] - len(failed) - count["skipped"], "tests")
    record.add("kernel_tests/failed", len(failed), "tests", failed=failed or None)
    record.add("kernel_tests/skipped", count["skipped"], "tests")
