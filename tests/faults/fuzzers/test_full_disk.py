"""Every command on full disks, without inodes, read-only, without rights, with few handles, with things in its way.

After most refusals the trouble is removed and the same command must give the right result.
"""

from collections.abc import Iterator

import pytest

from . import enclosures as at
from .case import Case
from .harness import Harness, every

RESUME = ("--config", "pretrain.yaml", "--run_folder", "run")
# Verb -> its words, what it writes, its inputs.
VERBS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "pack": ((), "out", ("cmip6", "cmip6/TEST-1", "pack.yaml")),
    "repack": ((), "out", ("data", "data/manifest.json", "data/TEST-1_historical_r1i1p1f1", "repack.yaml")),
    "pair": ((), "out.json", ("data/manifest.json", "fine/manifest.json", "fine/TEST-1_historical_r1i1p1f1", "data")),
    "inspect": ((), "out", ("data", "data/manifest.json", "data/TEST-1_historical_r1i1p1f1")),
    "pretrain": ((), "out", ("data", "data/manifest.json", "data/TEST-1_historical_r1i1p1f1", "pretrain.yaml")),
    "finetune": ((), "out", ("run", "run/checkpoints", "run/checkpoints/latest",
        "run/checkpoints/step_00000004/model.json")),
    "convert": ((), "out.safetensors", ("run", "run/checkpoints", "run/checkpoints/step_00000004/weights.safetensors")),
    "evaluate": ((), "out", ("data", "run", "run/checkpoints/step_00000004",
        "data/TEST-1_historical_r1i1p1f1/climatology.h5")),
    "predict": ((), "out.nc", ("data", "run", "run/checkpoints/step_00000004/SHA256SUMS.json")),
    "report": ((), "out.html", ("evaluation", "evaluation/evaluation.json", "evaluation/maps.npz",
        "run/metrics.jsonl")),
    "submit": ((), "out", ("finetune.yaml", "submit.yaml")),
    "verify": ((), "", ("data", "data/manifest.json", "data/TEST-1_historical_r1i1p1f1")),
    "status": ((), "", ("run", "run/config.yaml")),
    "plan": ((), "", ("plan.yaml",)),
}  # fmt: skip
RESUMED = {"pretrain resumed": ("pretrain", RESUME)}
PAGES = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 60, 90)
INODES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 14)
HANDLES = (0, 1, 2, 3, 5, 8, 12, 20)
SIZES = (0, 1, 100, 1000, 4096, 10_000, 30_000)
THINGS = ("file", "folder", "empty folder", "fifo", "device", "dangling link", "link to itself")


def case(verb: str, name: str, **settings: object) -> Case:
    words, _, _ = VERBS[verb]
    return Case(name=f"{verb} {name}", verb=verb, words=words, **settings)  # type: ignore[arg-type]


def disk_cases() -> Iterator[Case]:
    for verb, (_, output, _) in VERBS.items():
        if output:
            for pages in PAGES:
                yield case(
                    verb, f"disk with {pages} pages", enclose=at.full_disk(pages), afterwards=at.more_room, again=True
                )
            for count in INODES:
                yield case(
                    verb, f"disk with {count} inodes", enclose=at.few_inodes(count), afterwards=at.more_room, again=True
                )
            for size in SIZES:
                yield case(verb, f"files of {size} bytes", enclose=at.small_files(size))
        yield case(verb, "read-only disk", enclose=at.read_only_disk)


def right_cases() -> Iterator[Case]:
    for verb, (_, output, inputs) in VERBS.items():
        for path in inputs:
            for mode in (0, 0o111, 0o222):
                yield case(verb, f"{path} of mode {mode:o}", enclose=at.without_rights(path, mode))
            yield case(verb, f"{path} missing", enclose=at.missing(path))
            for thing in THINGS:
                yield case(verb, f"{path} is a {thing}", enclose=at.replaced(path, thing))
        yield case(verb, "folder of mode 555", enclose=at.without_rights(".", 0o555))
        if output:
            for mode in (0, 0o555):
                yield case(verb, f"{output} of mode {mode:o}", enclose=at.without_rights(output, mode))
            for thing in THINGS:
                yield case(verb, f"a {thing} at {output}", enclose=at.in_the_way(output, thing))
        for count in HANDLES:
            yield case(verb, f"{count} handles", enclose=at.few_handles(count))
        expects = "same" if output else "free"  # what is only printed is lost
        yield case(verb, "output to a full device", enclose=at.full_output, expects=expects)
        yield case(verb, "output closed", enclose=at.closed_output, expects=expects)


def all_cases() -> list[Case]:
    return [*disk_cases(), *right_cases()]


def test_a_sample_of_surroundings(faults: Harness) -> None:
    counts = faults.run_all(every(list(disk_cases()), 5) + every(list(right_cases()), 5), "full_disk")
    assert counts["refused"] > 3


@pytest.mark.faults
@pytest.mark.parametrize("verb", list(VERBS))
def test_surroundings(faults: Harness, verb: str) -> None:
    faults.run_all([case for case in all_cases() if case.verb == verb], "full_disk")
