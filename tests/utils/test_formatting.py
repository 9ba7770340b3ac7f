"""Sizes, scores and units as text; lengths of time as whole steps."""

import pytest

from climax_hpc.utils.formatting import counted, format_score, pretty_units, readable_size, whole_steps


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0.000"), (4.5, "4.500"), (-12345.6, "-12346"), (1.23456e-5, "1.235e-05")]
)
def test_scores(value: float | None, text: str) -> None:
    assert format_score(value) == text


def test_exponents_of_units_are_raised() -> None:
    assert [pretty_units(u) for u in ("m2 s-2", "kg m-2 s-1", "K", "1", "%")] == ["m² s⁻²", "kg m⁻² s⁻¹", "K", "1", "%"]


def test_sizes() -> None:
    assert [readable_size(n) for n in (0, 999, 1000, 1.3678e9, 2e15)] == ["0 B", "999 B", "1 kB", "1.37 GB", "2e+03 TB"]


@pytest.mark.parametrize(
    ("hours", "step", "count"),
    [(24, 6, 4), (0.3, 0.1, 3), (6, 6, 1), (9, 6, None), (3, 6, None), (0, 6, None), (6.001, 6, None)],
)
def test_whole_steps(hours: float, step: float, count: int | None) -> None:
    assert whole_steps(hours, step) == count


def test_counted() -> None:
    assert [counted(number, "pass", "passes") for number in (0, 1, 2)] == ["0 passes", "1 pass", "2 passes"]
