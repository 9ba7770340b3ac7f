"""Scores models and baselines on the same pairs, cells and truth; and distributions on unpaired fields.

Dimensions: B samples · O variables · C fine channels · H, W fine grid · N pairs scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.segments import Segment
from climax_hpc.errors import UserError
from climax_hpc.evaluation.accumulators import ScoreSums, Truth, as_tensor
from climax_hpc.evaluation.distributions import compare_distributions
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.tasks.downscaling.baselines import BASELINES, LearnedBaseline
from climax_hpc.tasks.downscaling.coarse_input import CoarseReader
from climax_hpc.tasks.downscaling.models import Downscaler
from climax_hpc.tasks.downscaling.pairs import PairedSource

_MOST_TIMES = 1000  # sampled for distributions, evenly spread, because all of their fields are held in memory


def build_baselines(
    paired: PairedSource, variables: Sequence[str], train: Sequence[Segment], batch_size: int
) -> dict[str, Downscaler]:
    """Label -> baseline of the variables that the coarse source holds, fitted on `train` where it learns.

    Raises:
        UserError: the coarse source holds none of them.
    """
    held = [name for name in variables if name in paired.coarse.channels]
    if not held:
        raise UserError(
            f"variables: the coarse source {paired.coarse.name} holds none of {', '.join(variables)}, so there is "
            "nothing to interpolate; score a variable that both sources hold"
        )
    baselines = {label: one.build(paired.coarse, paired.fine, held) for label, one in BASELINES.items()}
    learned = [one for one in baselines.values() if isinstance(one, LearnedBaseline)]
    reader, truth = CoarseReader(paired.coarse, climatology=False), TruthReader(paired.fine, held)
    for numbers in _batches(train, batch_size, "fit the baselines"):
        coarse = reader.read(coarse_steps(paired, numbers))
        truth_BOHW = truth.read(paired.fine_N[numbers].tolist())
        for one in learned:
            one.learn(coarse, truth_BOHW)
    return baselines


def unpaired_baselines(driver: PackedSource, fine: PackedSource, variables: Sequence[str]) -> dict[str, Downscaler]:
    """Label -> baseline that needs no pairs, of the variables that a free-running model holds."""
    held = [name for name in variables if name in driver.channels]
    built = {label: one.build(driver, fine, held) for label, one in BASELINES.items()}
    return {label: one for label, one in built.items() if not isinstance(one, LearnedBaseline)}


def coarse_steps(paired: PairedSource, numbers: Sequence[int]) -> list[int]:
    """Steps of the coarse source of these pairs."""
    return [int(paired.coarse_N[n]) for n in numbers]


class TruthReader:
    """Reads variables of the fine source in physical units."""

    def __init__(self, fine: PackedSource, variables: Sequence[str]) -> None:
        self._fine, self._places = fine, [fine.channels.index(name) for name in variables]

    def read(self, steps: Sequence[int]) -> Array:
        """Fields (B, O, H, W) of these time steps; NaN is missing."""
        fine, places = self._fine, self._places
        z_BOHW = np.stack([fine.read(t)[places] for t in steps]).astype(np.float64)
        return z_BOHW * fine.std_C[places][:, None, None] + fine.mean_C[places][:, None, None]


@dataclass(frozen=True, kw_only=True)
class DownscalingScoring:
    """The models and baselines to score, and the data to score them on."""

    paired: PairedSource
    variables: tuple[str, ...]
    models: Mapping[str, Downscaler]
    baselines: Mapping[str, Downscaler]
    weight_H: Array
    climatology: bool
    """Whether a model needs the coarse climatology."""

    @property
    def all_models(self) -> dict[str, Downscaler]:
        """Models, then baselines, by label."""
        return {**self.models, **self.baselines}

    def score(self, spans: Sequence[Segment], batch_size: int) -> tuple[dict[str, ScoreSums], dict[str, Array]]:
        """Sums by label on the pairs of `spans`, and by label a sample of the fields and of the truth.

        A cell counts where the truth and all baselines of the variable have a value, so that all are scored on the same
        cells. Moments are taken about the mean of each variable, so that they do not cancel.

        Raises:
            UserError: a damaged shard, or no valid cell of a variable.
        """
        paired, fine = self.paired, self.paired.fine
        mean_O11 = np.array([fine.mean_C[fine.channels.index(name)] for name in self.variables])[:, None, None]
        sums = {label: ScoreSums(one.variables) for label, one in self.all_models.items()}
        reader, truths = CoarseReader(paired.coarse, climatology=self.climatology), TruthReader(fine, self.variables)
        samples = _Samples(sum(span.steps for span in spans))
        for numbers in _batches(spans, batch_size, "evaluate"):
            coarse = reader.read(coarse_steps(paired, numbers))
            truth_BOHW = truths.read(paired.fine_N[numbers].tolist())
            fields = {label: one.fine(coarse) for label, one in self.all_models.items()}
            valid_BOHW = np.isfinite(truth_BOHW)
            for label, one in self.baselines.items():
                valid_BOHW[:, self.places(one)] &= np.isfinite(fields[label])
            truth = Truth.of(
                truth_BOHW=truth_BOHW,
                climatology_BOHW=np.broadcast_to(mean_O11, truth_BOHW.shape),
                valid_BOHW=valid_BOHW,
                weight_H=self.weight_H,
            )
            for label, one in self.all_models.items():
                sums[label].add(as_tensor(fields[label]), truth.select(self.places(one)))
            samples.add({TRUTH: truth_BOHW, **fields})
        self._check_scored(sums)
        return sums, samples.fields()

    def places(self, one: Downscaler) -> list[int]:
        """Positions of the variables of one model among those scored."""
        return [self.variables.index(name) for name in one.variables]

    def distributions(self, samples: Mapping[str, Array], truth_NOHW: Array) -> dict[str, dict[str, dict[str, float]]]:
        """Label -> variable -> metric, of sampled fields against sampled truth (paired or not)."""
        return {
            label: compare_distributions(samples[label], truth_NOHW[:, self.places(one)], self.weight_H, one.variables)
            for label, one in self.all_models.items()
        }

    def _check_scored(self, sums: Mapping[str, ScoreSums]) -> None:
        for one in sums.values():
            for name in one.undefined:
                raise UserError(
                    f"period: no cell of {name} can be scored, because no cell has values of both truth and "
                    "interpolation; check that the coarse region covers the fine one, or exclude the variable with "
                    "variables"
                )


def apply_unpaired(
    downscalers: Mapping[str, Downscaler],
    driver: PackedSource,
    spans: Sequence[Segment],
    batch_size: int,
    climatology: bool,
) -> dict[str, Array]:
    """A sample of the fields (N, O, H, W) that each makes of a free-running model's fields, by label."""
    reader = CoarseReader(driver, climatology=climatology)
    samples = _Samples(sum(span.steps for span in spans))
    for steps in _batches(spans, batch_size, f"downscale {driver.name}"):
        coarse = reader.read(steps)
        samples.add({label: one.fine(coarse) for label, one in downscalers.items()})
    return samples.fields()


class _Samples:
    """Every n-th time of a stream of fields, at most `_MOST_TIMES`."""

    def __init__(self, total: int) -> None:
        self._every, self._seen = -(-total // _MOST_TIMES), 0
        self._parts: dict[str, list[Array]] = {}

    def add(self, fields: Mapping[str, Array]) -> None:
        """Add fields (B, O, H, W) of the same times by label."""
        count = len(next(iter(fields.values())))
        first = -self._seen % self._every
        for label, part in fields.items():
            self._parts.setdefault(label, []).append(part[first :: self._every].astype(np.float32))
        self._seen += count

    def fields(self) -> dict[str, Array]:
        """The sample (N, O, H, W) by label."""
        return {label: np.concatenate(parts) for label, parts in self._parts.items()}


def _batches(spans: Sequence[Segment], size: int, task: str) -> Iterator[list[int]]:
    """Numbers of all steps, `size` at a time, with a bar on a terminal and one line elsewhere."""
    numbers = [n for span in spans for n in range(span.first, span.first + span.steps)]
    bar = tqdm(total=len(numbers), desc=task, unit="time", dynamic_ncols=True, disable=None)
    for first in range(0, len(numbers), size):
        batch = numbers[first : first + size]
        yield batch
        bar.update(len(batch))
    if bar.disable:
        print(f"{task}: {len(numbers)} times done", flush=True)
    bar.close()
