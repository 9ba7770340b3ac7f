"""The usual loader of research code, a baseline of `bench data`: `python -m climax_hpc.bench.research_loader FOLDER …`.

One .npz per stretch of time with an array (T, 1, H, W) float32 per variable; each file is read whole and its variables
are concatenated in Python, samples are normalised one by one, pass a shuffle buffer and are stacked into batches.
It runs as a process of its own, because an allocator can be tuned only before a process starts.
Dimensions: B samples · T steps · V variables · H, W grid.
"""

import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAX_LEAD = 28
Pair = tuple[Tensor, Tensor]


def pairs(files: Iterable[Path], names: list[str], mean_V: Tensor, std_V: Tensor) -> Iterator[Pair]:
    """Normalised (input (V, H, W), target (V, H, W)) in the order of time, with a random lead each."""
    scale, shift = std_V[:, None, None], mean_V[:, None, None]
    for path in files:
        with np.load(path) as content:
            x_TVHW = np.concatenate([content[name] for name in names], axis=1)
        for t in range(len(x_TVHW) - 1):
            later = min(t + random.randint(1, MAX_LEAD), len(x_TVHW) - 1)
            now_VHW, later_VHW = torch.from_numpy(x_TVHW[t]), torch.from_numpy(x_TVHW[later])
            yield (now_VHW - shift) / scale, (later_VHW - shift) / scale


def shuffled(stream: Iterable[Pair], size: int) -> Iterator[Pair]:
    """The pairs in the order in which a buffer of `size` gives them back."""
    buffer: list[Pair] = []
    for pair in stream:
        if len(buffer) < size:
            buffer.append(pair)
            continue
        place = random.randrange(size)
        yield buffer[place]
        buffer[place] = pair
    random.shuffle(buffer)
    yield from buffer


def batches(stream: Iterable[Pair], size: int) -> Iterator[Pair]:
    """Stacked (inputs (B, V, H, W), targets (B, V, H, W))."""
    held: list[Pair] = []
    for pair in stream:
        held.append(pair)
        if len(held) == size:
            inputs, targets = zip(*held, strict=True)
            yield torch.stack(inputs), torch.stack(targets)
            held = []


def main() -> None:
    """Print the samples a second of each pass over FOLDER as JSON, but for the first, which fills the page cache."""
    folder, batch_size, buffer_size, passes = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    about = json.loads((folder / "about.json").read_text())
    mean_V, std_V = torch.tensor(about["mean"]), torch.tensor(about["std"])
    rates = []
    for _ in range(passes + 1):
        samples, start = 0, time.perf_counter()
        stream = pairs(sorted(folder.glob("*.npz")), about["names"], mean_V, std_V)
        for x_BVHW, _ in batches(shuffled(stream, buffer_size), batch_size):
            samples += len(x_BVHW)
        rates.append(samples / (time.perf_counter() - start))
    print(json.dumps(rates[1:]))


if __name__ == "__main__":
    main()
