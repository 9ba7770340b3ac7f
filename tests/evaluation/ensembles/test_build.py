"""Which forecasts of another period dress and calibrate ensembles."""

import numpy as np
import pytest

from climax_hpc.evaluation.ensembles.build import spaced_evenly


@pytest.mark.parametrize("most", [200, 201, 399, 7, 2])
def test_the_hour_of_the_start_does_not_drift_with_the_date(most: int) -> None:
    """Of 800 starts every 6 h, 200 are chosen: every fourth one or nearly so, by place alone."""
    hours_N = 6.0 * np.arange(800)
    chosen = hours_N[spaced_evenly(hours_N, most)]
    assert len(chosen) == most
    assert (np.diff(chosen) > 0).all()
    for third in np.array_split(chosen, 3) if most >= 200 else [chosen]:
        counts = np.array([(third % 24 == hour).sum() for hour in (0, 6, 12, 18)])
        assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize(("starts", "most"), [(151, 100), (151, 151), (151, 1000), (10, 3)])
def test_of_one_hour_they_are_evenly_spaced(starts: int, most: int) -> None:
    found = spaced_evenly(24.0 * np.arange(starts), most)
    steps = np.diff(found)
    assert len(found) == min(starts, most)
    assert (found[0], found[-1]) == (0, starts - 1)
    assert steps.max() - steps.min() <= 1
