"""How large the study is: corpora, splits, networks, steps and seeds; `FULL` for results, `QUICK` to try it."""

from dataclasses import dataclass, field

Period = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """One of the compared networks."""

    label: str
    """As tables and figures name it."""
    settings: dict[str, object]
    """Dotted keys of `climax-hpc finetune`: kind and size."""
    seconds_per_step: float
    """On one quiet core; for the estimate of the time left."""

    @property
    def convolutional(self) -> bool:
        """True for ResNet and U-Net."""
        return self.settings.get("model.kind") in ("resnet", "unet")


BATCH = 4  # samples of a step (study_network.yaml)
PRETRAINED, SCRATCH = "ClimaX (pretrained)", "ClimaX (from scratch)"
REFERENCE = "damped persistence"  # figures by category divide by its RMSE
CLIMAX_SECONDS = 0.14  # per step of the full size, on one quiet core
PRETRAINED_RATE = 8.0e-4  # learning rate of fine-tuning; from scratch it is that of study_network.yaml
# Sizes for about the same time per step as ClimaX.
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
    """The simulated climate models; full years for pretraining, extended winters of the target."""

    pretraining_days: int = 300
    """Days kept of every pretraining source."""
    target_days: int = 881
    """Days from the target's first day to the end of its last winter."""
    target_start: str = "2001-10-16"
    """First day of the target."""
    target_window: str = "10-16:03-14"
    """Calendar days kept of the target in every year."""
    spin_up_days: int = 120
    """Days integrated before, and thrown away."""
    seconds_per_day: float = 0.25
    """On one quiet core; for the estimate of the time left."""


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """Everything that differs between a run for results and one to try the machinery."""

    name: str
    """`full` or `quick`."""
    corpora: Corpora | None = field(default_factory=Corpora)
    """None: the sample shipped with the package, which needs no simulation."""
    sources: tuple[str, ...] = ("JCM-A", "JCM-B", "JCM-D", "JCM-E")
    """Pretraining sources, in the order in which they are added."""
    source_numbers: tuple[int, ...] = (1, 2, 4)
    """Numbers of sources that are compared; the pretrained model of the other questions has had the last."""
    target: str = "JCM-C"
    """Source that is fine-tuned and tested on, never pretrained on."""
    train_period: Period = ("2001-10-16", "2003-03-14")
    """All training data of the target; climatology and damped persistence are fitted on it too."""
    test_period: Period = ("2003-10-16", "2004-03-14")
    """Test data of the target."""
    amounts: dict[str, Period] = field(
        default_factory=lambda: {
            "1/16": ("2002-11-20", "2002-12-08"),
            "1/4": ("2002-11-20", "2003-02-02"),
            "1": ("2001-10-16", "2003-03-14"),
        }
    )
    """Share of the target's training data -> period."""
    few: str = "1/4"
    """The amount at which the number of sources is compared."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of initialisation and order of every training in the headline comparison."""
    few_seeds: tuple[int, ...] = (1, 2)
    """The same of the other questions."""
    pretrain_steps: int = 3600
    """Optimiser steps of the pretraining."""
    short_pretrain_steps: int = 800
    """Optimiser steps of the pretrainings that are compared with one another."""
    finetune_steps: int = 450
    """Optimiser steps of every network on all target data."""
    few_steps: int = 250
    """Optimiser steps on parts of the target data."""
    projection_steps: int = 90
    """Optimiser steps of every climate projection."""
    lead_hours: tuple[int, ...] = (6, 24, 48, 72, 120, 240)
    """Lead times of the headline comparison [h]."""
    few_lead_hours: tuple[int, ...] = (24, 72, 120)
    """Lead times of the questions with many trainings [h]."""
    variables: tuple[str, ...] = ("geopotential_500", "temperature_850", "2m_temperature", "10m_u_component_of_wind")
    """Headline variables."""
    networks: tuple[ComparedNetwork, ...] = (RESNET, UNET, LINEAR)
    """What the pretrained ClimaX is compared with, beside the same from scratch."""
    model: dict[str, object] = field(default_factory=dict)
    """Dotted keys for every network, on top of study_network.yaml."""
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
