"""Sizes of the study: corpora, splits, networks, steps and seeds; `FULL` for results, `QUICK` for a trial."""

from dataclasses import dataclass, field

Period = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """One of the compared networks."""

    label: str
    """Name in tables and figures."""
    settings: dict[str, object]
    """Dotted keys of `climax-hpc finetune`: kind and size."""
    seconds_per_step: float
    """On one idle core; for the estimate of the time left."""

    @property
    def convolutional(self) -> bool:
        """True for ResNet and U-Net."""
        return self.settings.get("model.kind") in ("resnet", "unet")


BATCH = 4  # samples per step (study_network.yaml)
PRETRAINED, SCRATCH = "ClimaX (pretrained)", "ClimaX (from scratch)"
REFERENCE = "damped persistence"  # figures by category show RMSE relative to it
CLIMAX_SECONDS = 0.14  # per step of the full size, on one idle core
PRETRAINED_RATE = 8.0e-4  # learning rate of fine-tuning; from scratch: that of study_network.yaml
# Sizes with about the same time per step as ClimaX.
RESNET = ComparedNetwork(
    label="ResNet",
    settings={"model.kind": "resnet", "model.embed_dim": 48, "model.depth": 3},
    seconds_per_step=0.14,
)
UNET = ComparedNetwork(
    label="U-Net",
    settings={"model.kind": "unet", "model.embed_dim": 24, "model.depth": 1},
    seconds_per_step=0.14,
)
LINEAR = ComparedNetwork(label="linear regression", settings={"model.kind": "linear"}, seconds_per_step=0.05)


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """The simulated climate models: full years for pretraining, extended winters of the target."""

    pretraining_days: int = 300
    """Days kept of every pretraining source."""
    target_days: int = 881
    """Days from the target's first day to the end of its last winter."""
    target_start: str = "2001-10-16"
    """First day of the target."""
    target_window: str = "10-16:03-14"
    """Calendar days kept of the target in every year."""
    spin_up_days: int = 120
    """Days integrated first and discarded."""
    seconds_per_day: float = 0.25
    """On one idle core; for the estimate of the time left."""


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """All settings that differ between a full study and a trial."""

    name: str
    """`full` or `quick`."""
    corpora: Corpora | None = field(default_factory=Corpora)
    """None: the packaged sample, which needs no simulation."""
    sources: tuple[str, ...] = ("JCM-A", "JCM-B", "JCM-D", "JCM-E")
    """Pretraining sources, in the order in which they are added."""
    source_numbers: tuple[int, ...] = (1, 2, 4)
    """Compared numbers of sources; other questions use the model pretrained on the last."""
    target: str = "JCM-C"
    """Source for fine-tuning and testing; never used for pretraining."""
    train_period: Period = ("2001-10-16", "2003-03-14")
    """Training data of the target, also for climatology and damped persistence."""
    test_period: Period = ("2003-10-16", "2004-03-14")
    """Test data of the target."""
    amounts: dict[str, Period] = field(
        default_factory=lambda: {
            "1/16": ("2002-11-20", "2002-12-08"),
            "1/4": ("2002-11-20", "2003-02-02"),
            "1": ("2001-10-16", "2003-03-14"),
        }
    )
    """Fraction of the training data of the target -> period."""
    few: str = "1/4"
    """Amount at which numbers of sources are compared."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of initialisation and sample order in the headline comparison."""
    few_seeds: tuple[int, ...] = (1, 2)
    """Seeds in the other questions."""
    pretrain_steps: int = 3600
    """Optimiser steps of the pretraining."""
    short_pretrain_steps: int = 800
    """Optimiser steps of the pretraining runs that are compared with each other."""
    finetune_steps: int = 450
    """Optimiser steps of every network on all target data."""
    few_steps: int = 250
    """Optimiser steps on parts of the target data."""
    projection_steps: int = 90
    """Optimiser steps of every climate projection."""
    lead_hours: tuple[int, ...] = (6, 24, 48, 72, 120, 240)
    """Lead times of the headline comparison [h]."""
    few_lead_hours: tuple[int, ...] = (24, 72, 120)
    """Lead times of the questions with many training runs [h]."""
    variables: tuple[str, ...] = ("geopotential_500", "temperature_850", "2m_temperature", "10m_u_component_of_wind")
    """Headline variables."""
    networks: tuple[ComparedNetwork, ...] = (RESNET, UNET, LINEAR)
    """Networks compared with the pretrained ClimaX, in addition to ClimaX from scratch."""
    model: dict[str, object] = field(default_factory=dict)
    """Dotted keys for every network that override study_network.yaml."""
    resamples: int = 1000
    """Draws of the block bootstrap."""


FULL = StudySize(name="full")

QUICK = StudySize(
    name="quick",
    corpora=None,
    sources=("JCM-A", "JCM-B"),
    source_numbers=(1, 2),
    train_period=("2001", "2003"),
    test_period=("2004-01-01", "2004-01-12"),
    amounts={"1/3": ("2003", "2003"), "1": ("2001", "2003")},
    few="1/3",
    pretrain_steps=8,
    short_pretrain_steps=6,
    seeds=(1, 2),
    few_seeds=(1,),
    finetune_steps=4,
    few_steps=4,
    projection_steps=3,
    lead_hours=(24, 48, 72),
    few_lead_hours=(24, 72),
    networks=(
        ComparedNetwork(
            label="ResNet",
            settings={"model.kind": "resnet", "model.embed_dim": 8, "model.depth": 1},
            seconds_per_step=0.1,
        ),
    ),
    model={"model.embed_dim": 16, "model.depth": 1, "model.heads": 2, "model.patch": 8},
    resamples=100,
)
