"""Runs the cases of a fuzzer, names each outcome, and counts them; every fuzzer of `make faults` uses it.

same          exit 0, and the result has the values that it has without the damage
accepted      exit 0, and the damage was a free choice (a valid config, another valid file)
told          exit 0, another result, and the output says which file was left out
other input   exit 0, another result, and an independent reader finds other values in the damaged file too
refused       exit status 1 or 2, one line on standard error that says where, nothing half-written
These are good. Every other outcome is a fault: traceback, silent, slow, half-written, unclear, crash.
"""

import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path

from .case import Case, Run, nothing
from .forked import LIMIT_SECONDS, attempt

GOOD = ("same", "accepted", "told", "other input", "refused")
FAULTS = ("traceback", "silent", "slow", "half-written", "unclear", "crash")
_PREFIX = "climax-hpc: error: "
_WHERE = re.compile(
    r"^(run|data)\b|standard output|command line|arguments: \S|\b(out|fine|cmip6|evaluation)\b|"
    r"(in|of|folder) \S+ ?: |(in|of|folder) (run|data)\b|required: \w|"
    r"[\w.-]+/[\w.-]+|\w+\.(json|yaml|nc|h5|safetensors|tsv|html|zarr)\b|^[\w.\[\]]+( = .*)?: |\b[a-z_]+\.[a-z_]+\b"
    r"|[kK]eys?\b|\bfile:/|^\S+: |\brow \d+: [a-z]+ "
)


@dataclass
class Harness:
    """Runs cases on copies of one chain of files."""

    chain: Path
    """The undamaged files (tiny_chain.py)."""
    scratch: Path
    _baselines: dict[tuple[str, ...], Run] = field(default_factory=dict)

    def run(self, case: Case) -> tuple[str, str, Run]:
        """Run one case: outcome, reason of a fault, what it did. The copy is removed afterwards."""
        right = Run(status=0, seconds=0.0) if case.expects != "same" else self._baseline(case)
        folder = self.scratch / "case"
        run = attempt(case, self.chain, folder)
        for path in (self.scratch / name for name in run.outside):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        return (*classify(case, run, right), run)

    def run_all(self, cases: Iterable[Case], fuzzer: str) -> Counter[str]:
        """Run all cases; the number of each outcome, which is also recorded for the table (counts.py).

        Raises:
            AssertionError: some are faults; the message holds a command for each that runs it again.
        """
        only, shown = os.environ.get("FAULT_CASE"), os.environ.get("FAULT_SHOW")
        counts: Counter[str] = Counter()
        faults = []
        slowest = 0.0
        for case in list(cases)[:: int(os.environ.get("FAULT_STRIDE", "1"))]:
            if only and only != case.name:
                continue
            kind, reason, run = self.run(case)
            counts[kind] += 1
            slowest = max(slowest, run.seconds)
            line = f"{kind:<12} {case.name}: {excerpt(kind, reason, run)}"
            if kind in FAULTS:
                faults.append(f"{line}\n  {reproduction(fuzzer, case)}")
            if only or shown:
                print(line, file=sys.stderr)
        record(fuzzer, counts, slowest)
        print(f"{fuzzer}: {dict(counts)}, slowest {slowest:.1f} s")
        assert not faults, f"{len(faults)} of {counts.total()} cases\n" + "\n".join(faults)
        assert counts.total() or only, "no case has run"
        return counts

    def seconds_of(self, verb: str) -> float:
        """Duration of a command on undamaged files, on this machine as it is now."""
        return self._baseline(Case(name="", verb=verb)).wall

    def _baseline(self, case: Case) -> Run:
        """The same command on undamaged files."""
        key = (case.verb, *case.arguments, str(case.reread), case.before.__name__)
        if key not in self._baselines:
            whole = replace(case, name="undamaged", damage=nothing, enclose=nothing, afterwards=None, expects="same")
            run = attempt(whole, self.chain, self.scratch / "baseline")
            assert run.status == 0, f"{case.verb} fails on undamaged files: {run.errors}"
            assert run.result, f"{case.verb}: has no result"
            self._baselines[key] = run
            shutil.rmtree(self.scratch / "baseline")
        return self._baselines[key]


def classify(case: Case, run: Run, right: Run) -> tuple[str, str]:
    """The kind of an outcome, and the reason of a fault; `right`: the same command without damage."""
    if "Traceback (most recent call last)" in run.errors + run.output:
        return "traceback", ""
    if run.seconds > LIMIT_SECONDS:
        return "slow", f"{run.seconds:.1f} s"
    if run.status < 0 or run.status > 2:
        return "crash", f"exit status {run.status}"
    if run.outside:
        return "silent", f"wrote {' '.join(run.outside)[:200]}"
    if run.again:
        return "half-written", run.again
    if run.status == 0 and run.left:
        return "half-written", " ".join(run.left)[:200]
    if run.status == 0:
        return _classify_success(case, run, right)
    lines = run.errors.splitlines()
    if len(lines) != 1 or not lines[0].startswith(_PREFIX):
        return "unclear", f"{len(lines)} lines on standard error"
    message = lines[0].removeprefix(_PREFIX)
    if not (any(name in message for name in case.names) if case.names else _says_where(message, case)):
        return "unclear", "names no path and no key"
    if (run.left or case.afterwards) and run.result != right.result:
        return "half-written", " ".join(run.left)[:200] or f"afterwards: {run.result}"
    return "refused", ""


def _classify_success(case: Case, run: Run, right: Run) -> tuple[str, str]:
    if case.expects == "refused":
        return "silent", "should be refused"
    if case.expects == "free":
        return "accepted", ""
    if run.result == right.result:
        return "same", ""
    if any(name in run.output + run.errors for name in case.tells):
        return "told", ""
    if run.found != right.found:
        return "other input", ""
    return "silent", "another result"


def _says_where(message: str, case: Case) -> bool:
    """True where a message names a path, a word of the command or a config key."""
    words = [part for word in case.arguments for part in (word, re.split("[=.]", word.lstrip("-"))[0])]
    words += [value for word in case.arguments if len(value := word.partition("=")[2]) > 4]  # a path as it was given
    keys = keys_of(case.verb)
    named = any(len(word) > 1 and word in message for word in words)
    return named or bool(keys & set(re.findall(r"[\w.]+", message)) or _WHERE.search(message))


@cache
def keys_of(verb: str) -> set[str]:
    """All dotted keys of the config of a verb."""
    from climax_hpc.cli import SUBCOMMANDS
    from climax_hpc.utils.references import load

    return set(_keys(load(SUBCOMMANDS[verb].config))) if verb in SUBCOMMANDS else set()


def _keys(config: type, prefix: str = "") -> Iterator[str]:
    for key in fields(config):
        if isinstance(key.type, type) and is_dataclass(key.type):
            yield from _keys(key.type, f"{prefix}{key.name}.")
        yield prefix + key.name


def reproduction(fuzzer: str, case: Case) -> str:
    """A shell command that runs one case again and shows its output."""
    name = case.name.replace("'", "'\\''")
    file = f"tests/faults/fuzzers/test_{fuzzer}.py"
    return f"FAULT_CASE='{name}' .venv/bin/python -m pytest -q -m 'faults or not faults' {file}"


def excerpt(kind: str, reason: str, run: Run) -> str:
    """What a person wants to see of an outcome, in one line."""
    lines = (run.errors.strip() or run.output.strip()).splitlines() or [""]
    text = lines[-1] if kind != "unclear" else " | ".join(lines[-4:])
    where = [line.strip() for line in lines if line.strip().startswith('File "')][-1:]
    return " ".join([f"exit {run.status}", reason, *where, text])[:600]


def record(fuzzer: str, counts: Counter[str], slowest: float) -> None:
    """Write the counts where `make faults` collects them."""
    folder = os.environ.get("FAULT_COUNTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        row = {"fuzzer": fuzzer, "counts": dict(counts), "slowest_s": round(slowest, 2)}
        (Path(folder) / f"{fuzzer}.{os.getpid()}.{time.monotonic_ns()}.json").write_text(json.dumps(row))


def every(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` of the cases, evenly spaced: the sample of the default suite."""
    step = max(1, len(cases) // count)
    return list(cases[::step])[:count]
