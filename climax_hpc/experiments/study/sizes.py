"""Sizes of the study: corpora, splits, steps, rates, levers and seeds; `FULL` for results, `QUICK` for a trial."""

from dataclasses import dataclass, field, replace

from climax_hpc.experiments.study.networks import (
    CLIMAX,
    LINEAR,
    RESNET,
    UNET,
    VIT,
    ComparedNetwork,
    shared_variables,
    with_tendencies,
)

Period = tuple[str, str]
VARIABLES = "model.variables"
REFERENCE = "damped persistence"  # figures by category show RMSE relative to it


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """The simulated climate models: full years for pretraining, extended winters of the target."""

    pretraining_days: int = 365
    """Days kept of every pretraining source."""
    target_days: int = 1611
    """Days from the target's first day to the end of its last winter."""
    target_start: str = "2001-10-16"
    """First day of the target."""
    target_window: str = "10-16:03-14"
    """Calendar days kept of the target in every year."""
    true_members: int = 6
    """Members of the ensemble of the target's climate model."""
    true_every_days: int = 10
    """Days from one start of that ensemble to the next."""
    true_starts: Period = ("2005-10-18", "2006-03-08")
    """First and last of these starts: the test period, after the state that tendencies need."""
    true_hours: int = 120
    """Length of its members [h]."""
    spin_up_days: int = 120
    """Days integrated first and discarded."""
    seconds_per_day: float = 0.22
    """On one idle core; for the estimate of the time left."""


@dataclass(frozen=True, kw_only=True)
class Lever:
    """One change to the form that ClimaX has had."""

    label: str
    """Name in tables."""
    settings: dict[str, object]
    """Dotted keys of `climax-hpc finetune`."""
    own: bool = False
    """Only for ClimaX: the others have no such thing. False: for all networks."""
    optional: bool = True
    """The validation scores decide whether it joins the recipe of the later questions; False: it always does."""


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
    train_period: Period = ("2001-10-16", "2004-03-14")
    """Training data of the target, also for climatology and damped persistence: three winters."""
    validation_period: Period = ("2004-10-16", "2005-03-14")
    """Data of the target that levers and learning rates are chosen on; no network is trained on them."""
    test_period: Period = ("2005-10-16", "2006-03-14")
    """Test data of the target, which no choice sees."""
    amounts: dict[str, Period] = field(
        default_factory=lambda: {
            "1/16": ("2003-11-20", "2003-12-17"),
            "1/4": ("2003-11-20", "2004-03-11"),
            "1": ("2001-10-16", "2004-03-14"),
        }
    )
    """Fraction of the training data of the target -> period; the last is all of them."""
    few: str = "1/4"
    """Amount at which numbers of sources are compared."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of initialisation and sample order in the headline comparison."""
    few_seeds: tuple[int, ...] = (1, 2)
    """Seeds in the other questions."""
    pretrain_steps: int = 2500
    """Optimiser steps of the pretraining of every network."""
    short_pretrain_steps: int = 400
    """Optimiser steps of the pretraining runs that are compared with each other."""
    finetune_steps: int = 330
    """Optimiser steps of every network on all target data."""
    few_steps: int = 120
    """Optimiser steps on parts of the target data."""
    downscaling_steps: int = 200
    """Optimiser steps of downscaling."""
    projection_steps: int = 150
    """Optimiser steps of every climate projection."""
    lever_steps: int = 200
    """Optimiser steps on the target of every row of the levers."""
    lever_pretrain_steps: tuple[int, ...] = (300, 900)
    """Lengths of pretraining that are compared with all levers together; the first also with none."""
    lever_rollout_steps: int = 40
    """Further optimiser steps of roll-out fine-tuning."""
    rate_steps: int = 100
    """Optimiser steps of every run of the sweep of learning rates."""
    scratch_rates: tuple[float, ...] = (2.0e-3, 4.0e-3, 8.0e-3, 1.6e-2)
    """Learning rates tried from scratch."""
    finetune_rates: tuple[float, ...] = (1.5e-3, 3.0e-3, 6.0e-3)
    """Learning rates tried after pretraining."""
    deterministic_steps: int = 4000
    """Optimiser steps of the network without noise that the ensemble starts from, and is compared with."""
    deterministic_rate: float = 2.0e-3
    """Learning rate of these steps."""
    ensemble_steps: int = 8000
    """Optimiser steps of the ensemble."""
    ensemble_rate: float = 1.0e-3
    """Learning rate of these steps."""
    short_lead_exponent: float = 4.0
    """`data.lead_exponent` of a second ensemble, trained on more short lead times; that of the others is 1.8."""
    ensemble_seeds: tuple[int, ...] = (1, 2)
    """Seeds of both trainings."""
    trained_members: int = 2
    """Members of each sample in the training of the ensemble."""
    scored_members: int = 8
    """Members of every ensemble in the test."""
    ensemble_lead_hours: tuple[int, ...] = (6, 24, 48, 72, 96, 120, 240)
    """Lead times of the scores of ensembles [h]."""
    lead_hours: tuple[int, ...] = (6, 24, 48, 72, 120, 240)
    """Lead times of the headline comparison [h]."""
    few_lead_hours: tuple[int, ...] = (6, 24, 48, 120)
    """Lead times of the questions with many training runs [h]."""
    validation_lead_hours: tuple[int, ...] = (24, 72, 120)
    """Lead times of the scores that choices are made by [h]."""
    start_every_hours: int = 12
    """Time between the starts of the forecasts that are scored in the headline and by amount of data [h]."""
    few_start_every_hours: int = 24
    """Likewise, in the other questions [h]."""
    validation_start_every_hours: int = 24
    """Likewise, on the validation period [h]."""
    variables: tuple[str, ...] = ("geopotential_500", "temperature_850", "2m_temperature", "10m_u_component_of_wind")
    """Headline variables."""
    networks: tuple[ComparedNetwork, ...] = (CLIMAX, VIT, RESNET, UNET, LINEAR)
    """All networks; the first is the one that the study is about, the second is ClimaX's exact form."""
    model: dict[str, object] = field(default_factory=dict)
    """Dotted keys for every network that override study_network.yaml."""
    as_is: dict[str, object] = field(
        default_factory=lambda: {"model.init": "climax", "optimizer.kind": "adamw", "optimizer.lr": 2.0e-3}
    )
    """What ClimaX's exact form has in the first row of the levers."""
    levers: tuple[Lever, ...] = ()
    """Changed one at a time, and all together."""
    rollout: dict[str, object] = field(
        default_factory=lambda: {
            "data.min_lead_hours": 24, "data.max_lead_hours": 24, "data.rollout_steps": 3, "data.min_rollout_steps": 1,
        }
    )  # fmt: skip
    """Roll-out fine-tuning: forecasts of 24 h, each from the one before."""
    resamples: int = 1000
    """Draws of the block bootstrap."""

    @property
    def own(self) -> ComparedNetwork:
        """The network that the study is about."""
        return self.networks[0]

    @property
    def exact(self) -> ComparedNetwork:
        """ClimaX's exact form."""
        return self.networks[1]

    @property
    def rivals(self) -> tuple[ComparedNetwork, ...]:
        """All networks but the first."""
        return self.networks[1:]

    def network(self, label: str) -> ComparedNetwork:
        """The network of this label."""
        return next(one for one in self.networks if one.label == label)


def levers_of(own: ComparedNetwork) -> tuple[Lever, ...]:
    """The levers, given the size of the network with convolutional blocks."""
    return (
        Lever(label="scaled start values", settings={"model.init": "scaled"}, own=True, optional=False),
        Lever(label="conv blocks, input skip", settings=own.settings, own=True, optional=False),
        Lever(label="Muon", settings={"optimizer.kind": "muon", "optimizer.lr": 4.0e-3}, optional=False),
        Lever(label="tendencies", settings={VARIABLES: with_tendencies(shared_variables())}),
        Lever(label="pressure weights", settings={"data.variable_weights": "pressure"}),
        Lever(label="stratified lead times", settings={"data.lead_sampling": "stratified"}),
    )


def _tiny(network: ComparedNetwork, **settings: object) -> ComparedNetwork:
    """The network with at most 16 channels."""
    small = {f"model.{key}": value for key, value in settings.items()}
    return replace(network, settings=network.settings | small, seconds_per_step=0.1, downscaling_slower=1.0)


_TINY_CLIMAX = replace(_tiny(CLIMAX, embed_dim=16, depth=1, heads=2, patch=4), downscaling={"model.patch": 2})

FULL = StudySize(name="full", levers=levers_of(CLIMAX))

QUICK = StudySize(
    name="quick",
    corpora=None,
    sources=("JCM-A", "JCM-B"),
    source_numbers=(1, 2),
    train_period=("2001", "2003"),
    validation_period=("2004-01-01", "2004-01-12"),
    test_period=("2004-01-13", "2004-01-31"),
    amounts={"1/3": ("2003", "2003"), "1": ("2001", "2003")},
    few="1/3",
    pretrain_steps=8,
    short_pretrain_steps=6,
    seeds=(1, 2),
    few_seeds=(1,),
    finetune_steps=4,
    few_steps=4,
    downscaling_steps=4,
    projection_steps=3,
    lever_steps=3,
    lever_pretrain_steps=(3,),
    lever_rollout_steps=2,
    rate_steps=3,
    deterministic_steps=4,
    ensemble_steps=4,
    scored_members=3,
    ensemble_lead_hours=(24, 96),
    lead_hours=(24, 48, 72),
    few_lead_hours=(24, 72),
    validation_lead_hours=(24, 72),
    networks=(
        _TINY_CLIMAX,
        _tiny(VIT, embed_dim=16, depth=1, heads=2, patch=8),
        _tiny(RESNET, embed_dim=8, depth=1),
    ),
    levers=levers_of(_TINY_CLIMAX),
    resamples=100,
)
