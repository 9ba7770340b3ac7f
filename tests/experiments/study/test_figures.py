"""Figures of the study: no two networks look alike, and one network looks alike in all figures."""

from climax_hpc.experiments.study.figures import styles
from climax_hpc.experiments.study.sizes import FULL


def test_a_colour_per_network_and_dashes_from_scratch() -> None:
    labels = [label for n in FULL.networks for label in dict.fromkeys((n.pretrained, n.scratch)) if n.pretrains]
    drawn = styles([*labels, "linear regression", "climatology", "pattern scaling"])
    assert len(set(drawn.values())) == len(drawn)
    for network in FULL.networks:
        if network.pretrains:
            (colour, dashes, _), (own, scratch_dashes, _) = drawn[network.pretrained], drawn[network.scratch]
            assert (colour, dashes, scratch_dashes) == (own, "-", "--")
    assert len({drawn[n.scratch][0] for n in FULL.networks}) == len(FULL.networks)
