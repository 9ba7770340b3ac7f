"""Units as files spell them: what a spelling means, and that no result is accepted only because dimensions agree."""

import time

import pytest

from climax_hpc.data_prep.sources.units import SPELLINGS, UnknownUnits, affine, same_units


@pytest.mark.parametrize(
    ("units", "target", "expected"),
    [
        ("degC", "K", (1.0, 273.15)), ("degrees C", "K", (1.0, 273.15)), ("Degree  Celsius ", "K", (1.0, 273.15)),
        ("deg C", "K", (1.0, 273.15)), ("°C", "K", (1.0, 273.15)), ("degrees K", "K", (1.0, 0.0)),
        ("KELVIN", "K", (1.0, 0.0)), ("gr/kg", "1", (0.001, 0.0)), ("kg kg**-1", "1", (1.0, 0.0)),
        ("℃", "K", (1.0, 273.15)), ("K (kelvin)", "K", (1.0, 0.0)), ("m of water equivalent", "m", (1.0, 0.0)),
        ("HPA", "Pa", (100.0, 0.0)), ("mb", "Pa", (100.0, 0.0)), ("Percent", "1", (0.01, 0.0)),
        ("gpm", "m", (1.0, 0.0)), ("m**2 s**-2", "m2 s-2", (1.0, 0.0)), ("m/sec", "m s-1", (1.0, 0.0)),
        ("kg m-2 h-1", "kg m-2 s-1", (1 / 3600, 0.0)), ("Gt yr-1", "Gt yr-1", (1.0, 0.0)),
    ],
)  # fmt: skip
def test_spellings_mean_what_their_files_mean(units: str, target: str, expected: tuple[float, float]) -> None:
    assert affine(units, target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("units", "target", "reason"),
    [
        ("degrees", "K", "would mean degree"), ("rad K", "K", "would mean radian"), ("K rad-1", "K", "would mean rad"),
        ("grains/kg", "1", "would mean grain"), ("counts", "1", "would mean count"), ("M", "1", "would mean molar"),
        ("PA", "m", "Cannot convert"), ("degrees C K", "K", "would mean"), ("furlong s-1", "m s-1", "would mean furl"),
        ("nonsense", "K", "not defined"), ("K", "Pa", "Cannot convert"),
    ],
)  # fmt: skip
def test_a_matching_dimension_is_not_enough(units: str, target: str, reason: str) -> None:
    with pytest.raises(UnknownUnits, match=reason):
        affine(units, target)


def test_every_spelling_in_the_table_is_understood() -> None:
    targets = {"degC": "K", "K": "K", "degF": "K", "1": "1", "%": "1", "hPa": "Pa", "Pa": "Pa", "g kg-1": "1"}
    for spelt, meant in SPELLINGS.items():
        assert affine(spelt, targets.get(meant, meant)) == affine(meant, targets.get(meant, meant))
        assert spelt == " ".join(spelt.lower().split())


@pytest.mark.parametrize(
    "units",
    [
        "9**9**9**9", "9^9^9^9", "9**(9**9)", "(9**9)**9**9", "9 ** 9 ** 9", "9**+9**9", "9** -9**9", "m9**9**9**9",
        "m**9**9**9", "9**9)**(9**9", "2**999999999", "2**99**99", "m999999999", "m-999999999", "1e999999", "9**9**-9",
        "9⁹⁹⁹⁹⁹⁹⁹⁹⁹", "9⁹**9**9", "9**9⁹", "K**1e9", "K**0.5", "9**9**9_9", "9**\t9**9", "9.**9**9", "9**9.**9",
        "K" * 10**8, "(" * 1000 + "K" + ")" * 1000, "K" + " K" * 1000, "-" * 1000, "٩**٩**٩", "K\x00", "∞ K",
        "K\x1b[2J", "", "K**", "^", "__import__('os')", "lambda: 9", "[9]*9", "9//0", "K/0", "1/0", "inf K", "nan K",
    ],
    ids=lambda units: ascii(units[:12]),
)  # fmt: skip
def test_units_are_no_programs(units: str) -> None:
    start = time.monotonic()
    with pytest.raises(UnknownUnits) as caught:
        affine(units, "K")
    assert not same_units("K", units)  # units that a file states, against those that the settings give
    assert time.monotonic() - start < 5
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("m/s", "m s-1", True), ("m s-1", "metres/second", True), ("kg/m2/s", "kg m-2 s-1", True), ("1", "g/g", True),
        ("m2 s-2", "J kg-1", True), ("Pa", "hPa", False), ("K", "degC", False), ("%", "1", False), ("K", "", False),
        ("g kg-1", "gr/kg", True), ("nonsense", "K", False), ("K", "nonsense", False), ("nonsense", "nonsense", True),
    ],
)  # fmt: skip
def test_the_same_unit_in_other_words(one: str, other: str, same: bool) -> None:
    assert same_units(one, other) is same


def test_raised_exponents_are_understood() -> None:
    assert affine("m² s⁻²", "m2 s-2") == (1.0, 0.0)
