"""The steps of `make pretrained`: the corpora of the study, pretraining, export, scores on data never trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import yaml

from climax_hpc.data_prep.simulation.config import SimulateConfig
from climax_hpc.experiments.study.commands import Study, make_words
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.sizes import FULL, QUICK

NAME = "jcm-small"
CONFIG = "pretrained_jcm_small"
VALIDATION_DAYS = 30
"""Last days of every source, on which the loss is followed during training."""
LEADS = (6, 24, 72, 120, 240)
"""Lead times of the scores [h]."""
SAMPLE_TRAIN, SAMPLE_TEST = ("2001", "2003"), ("2004", "2004")
"""Years of the packaged sample: for baselines and climatology, and for the scores."""
_RESAMPLES = 1000
_SECONDS_PER_STEP = 0.2  # two processes on two idle cores
QUICK_TRAINING = {
    "train.steps": 4, "optimizer.warmup_steps": 1, "train.log_every": 1, "model.embed_dim": 16, "model.heads": 2,
}  # fmt: skip
"""Settings of a trial; the weights are of no use."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """From nothing to scored weights; `study` has the corpora, which `make study` shares."""

    study: Study
    training: Mapping[str, object] = field(default_factory=dict)
    """Dotted keys that override the shipped config."""
    ranks: int = 2
    """Processes that train; any number gives the same weights up to rounding."""

    @classmethod
    def of(cls, folder: Path, *, quick: bool, ranks: int) -> "Recipe":
        """The recipe in full, or as a trial on the packaged sample."""
        study = Study(size=QUICK if quick else FULL, folder=folder)
        return cls(study=study, training=QUICK_TRAINING if quick else {}, ranks=ranks)

    @property
    def folder(self) -> Path:
        """Output of the steps after packing."""
        return self.study.folder / "weights"

    @cached_property
    def pretrain(self) -> Step:
        """Training on all sources but the target."""
        settings = {
            "run_folder": self.folder / "run",
            "data.dataset": self.study.dataset,
            "data.sources": list(self.study.size.sources),
            **self._periods(),
            **self.training,
        }
        several = ("torch.distributed.run", "--standalone", "--nproc_per_node", str(self.ranks), "-m")
        return Step(
            name="weights/pretrain", words=make_words("pretrain", settings, config=CONFIG), output=self.folder / "run",
            needs=(self.study.pack,), resumable=True, config=_shipped_config(),
            launcher=several if self.ranks > 1 else (),
            expected_seconds=_SECONDS_PER_STEP * self._training_steps(),
        )  # fmt: skip

    def _training_steps(self) -> int:
        return int(str(self.training.get("train.steps", yaml.safe_load(_shipped_config())["train"]["steps"])))

    def _periods(self) -> dict[str, object]:
        """Training and validation days; none of the sample's, whose Januaries lie apart."""
        corpora = self.study.size.corpora
        if corpora is None:
            return {"data.period": ["2001", "2002"], "data.validation_period": ["2003", "2003"]}
        first = date.fromisoformat(SimulateConfig.start)  # the simulations keep the default
        last = first + timedelta(days=corpora.pretraining_days - 1)
        split = last - timedelta(days=VALIDATION_DAYS)
        after = split + timedelta(days=1)
        return {
            "data.period": [first.isoformat(), split.isoformat()],
            "data.validation_period": [after.isoformat(), last.isoformat()],
        }

    @cached_property
    def export(self) -> Step:
        """The newest checkpoint, its moving average, as one file."""
        output = self.folder / f"{NAME}.safetensors"
        settings = {"source": self.folder / "run", "output": output}
        return Step(name="weights/export", words=make_words("convert", settings), output=output, needs=(self.pretrain,))

    @cached_property
    def sample(self) -> Step:
        """The packaged sample, packed as in the demo."""
        output = self.folder / "sample"
        words = make_words("pack", {"output": output}, config="demo_pack")
        return Step(name="weights/sample", words=words, output=output, expected_seconds=20, resumable=True)

    @cached_property
    def evaluations(self) -> dict[str, Step]:
        """Title -> scores of the exported file, on a climate model that it never saw."""
        size = self.study.size
        corpus, sample = self.study.dataset, self.sample.output
        return {
            "the target of the study": self._evaluate("target", corpus, size.train_period, size.test_period),
            "the packaged sample": self._evaluate("sample", sample, SAMPLE_TRAIN, SAMPLE_TEST),
        }

    def _evaluate(self, name: str, dataset: Path, train: tuple[str, str], test: tuple[str, str]) -> Step:
        output = self.folder / "scores" / name
        settings = {
            "run_folder": output,
            "models": {NAME: str(self.export.output)},
            "dataset": dataset,
            "source": self.study.size.target,
            "period": list(test),
            "train_period": list(train),
            "lead_hours": list(LEADS),
            "map_lead_hours": 72,
            "resamples": _RESAMPLES,
            "spectra": False,
            "threads": 1,
        }
        return Step(
            name=f"weights/scores-{name}", words=make_words("evaluate", settings), output=output,
            needs=(self.export, self.sample, self.study.pack), expected_seconds=60,
        )  # fmt: skip

    @property
    def steps(self) -> list[Step]:
        """The last ones; the others are what they need."""
        return list(self.evaluations.values())


def _shipped_config() -> str:
    return (files("climax_hpc.configs") / f"{CONFIG}.yaml").read_text(encoding="utf-8")
