"""The usual loader of research code, a baseline of `bench data`: `python -m climax_hpc.tools.bench.research_loader …`.

`released` follows the steps of ClimaX's loader (microsoft/ClimaX, pretrain/dataset.py): one .npz file per time segment
with an array (T, 1, H, W) per variable, read as a whole; inputs and outputs cast and concatenated in Python; outputs
gathered by lead time; samples copied and normalised one by one; a shuffle buffer; batches stacked. `lean` avoids what
such a loader could avoid: inputs and outputs share one array, and are views of it until they are normalised.
It runs in its own process, because a memory allocator can be tuned only before a process starts.
Dimensions: B samples · T steps · V variables · H, W grid.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEP_HOURS = 6
LEAD_SHARE = 28 / 182  # ClimaX: lead times up to a week, files of an eighth of a year whose last week has no input
Sample = tuple[Tensor, Tensor, Tensor]
Segment = tuple[Tensor, Tensor, Tensor]


def released(files: Iterable[Path], names: list[str]) -> Iterator[Segment]:
    """(inputs (T, V, H, W), outputs (T, V, H, W), lead times (T)) of every file, as in the released loader."""
    for path in files:
        with np.load(path) as content:
            arrays = {name: content[name] for name in names}
        x_TVHW, y_TVHW = _concatenated(arrays), _concatenated(arrays)
        longest = max(1, round(LEAD_SHARE * len(x_TVHW)))
        inputs = x_TVHW[:-longest]
        steps_T = torch.randint(1, longest + 1, (len(inputs),))
        yield inputs, y_TVHW[torch.arange(len(inputs)) + steps_T], STEP_HOURS * steps_T / 100


def _concatenated(arrays: Mapping[str, NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.concatenate([array.astype(np.float32) for array in arrays.values()], axis=1))


def lean(files: Iterable[Path], names: list[str]) -> Iterator[Segment]:
    """The same with one array for inputs and outputs, concatenated once; outputs are views; every step is an input."""
    for path in files:
        with np.load(path) as content:
            x_TVHW = torch.from_numpy(np.concatenate([content[name] for name in names], axis=1))
        longest = max(1, round(LEAD_SHARE * len(x_TVHW)))
        for t in range(len(x_TVHW) - 1):
            later = min(t + random.randint(1, longest), len(x_TVHW) - 1)
            yield x_TVHW[t, None], x_TVHW[later, None], torch.tensor([STEP_HOURS * (later - t) / 100])


def samples(source: Iterable[Segment], mean_V: Tensor, std_V: Tensor) -> Iterator[Sample]:
    """Normalised (input (V, H, W), output (V, H, W), lead time) in time order."""
    scale, shift = std_V[:, None, None], mean_V[:, None, None]
    for inputs, outputs, lead_T in source:
        for x_VHW, y_VHW, lead in zip(inputs, outputs, lead_T, strict=True):
            yield x_VHW.clone().sub_(shift).div_(scale), y_VHW.clone().sub_(shift).div_(scale), lead


def shuffled(stream: Iterable[Sample], size: int) -> Iterator[Sample]:
    """The samples shuffled by a buffer of `size`."""
    buffer: list[Sample] = []
    for sample in stream:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        place = random.randrange(size)
        yield buffer[place]
        buffer[place] = sample
    random.shuffle(buffer)
    yield from buffer


def batches(stream: Iterable[Sample], size: int) -> Iterator[Sample]:
    """Stacked (inputs (B, V, H, W), outputs (B, V, H, W), lead times (B))."""
    held: list[Sample] = []
    for sample in stream:
        held.append(sample)
        if len(held) == size:
            inputs, outputs, leads = zip(*held, strict=True)
            yield torch.stack(inputs), torch.stack(outputs), torch.stack(leads)
            held = []


FORMS: dict[str, Callable[[Iterable[Path], list[str]], Iterator[Segment]]] = {"released": released, "lean": lean}


def main() -> None:
    """Print samples/s of each pass over FOLDER as JSON; a first pass, which warms the allocator, is not counted."""
    parser = argparse.ArgumentParser(
        prog="python -m climax_hpc.tools.bench.research_loader", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("batch", type=int)
    parser.add_argument("buffer", type=int)
    parser.add_argument("passes", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = json.loads((options.folder / "about.json").read_text())
    mean_V, std_V = torch.tensor(about["mean"]), torch.tensor(about["std"])
    rates = []
    for _ in range(options.passes + 1):
        count, start = 0, time.perf_counter()
        source = FORMS[options.form](sorted(options.folder.glob("*.npz")), about["names"])
        for x_BVHW, *_ in batches(shuffled(samples(source, mean_V, std_V), options.buffer), options.batch):
            count += len(x_BVHW)
        rates.append(count / (time.perf_counter() - start))
    print(json.dumps(rates[1:]))


if __name__ == "__main__":
    main()
