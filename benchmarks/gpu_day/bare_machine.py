"""Runs `climax-hpc` as on a bare machine: `python -m benchmarks.gpu_day.bare_machine COMMAND…`.

Only torch, triton, numpy, what they bring, and the wheels of wheels.txt can be imported; any other package is missing.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement

from benchmarks.gpu_day.wheels import names

MACHINE = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"}


class OnlyThese:
    """Takes the place of all finders of modules, and finds none of a package that is not allowed."""

    def __init__(self, allowed: set[str], finders: list[Any]) -> None:
        self.allowed, self.finders, self.owners = allowed, finders, metadata.packages_distributions()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's, as the other finders have it."""
        owners = self.owners.get(fullname, []) if path is None else []
        if owners and not self.allowed & {normal(owner) for owner in owners}:
            return None
        specs = (finder.find_spec(fullname, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)

    def find_distributions(self, context: Any) -> Iterator[metadata.Distribution]:
        """Every installed package: `importlib.metadata` asks."""
        for finder in self.finders:
            yield from finder.find_distributions(context) if hasattr(finder, "find_distributions") else ()


def allowed() -> set[str]:
    """Distributions of a bare machine: the wheels, and the closure of what torch, triton and numpy require."""
    found, waiting = {normal(name) for name in names()} | {"climax-hpc"}, ["torch", "triton", "numpy"]
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            required = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        waiting += [r.name for r in required if r.marker is None or r.marker.evaluate(MACHINE)]
    return found


def normal(name: str) -> str:
    """The normal form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.meta_path[:] = [OnlyThese(allowed(), list(sys.meta_path))]
    from climax_hpc.cli import main

    main()
