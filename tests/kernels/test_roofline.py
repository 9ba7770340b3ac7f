"""Floors from sizes, against numbers worked out by hand."""

from climax_hpc.kernels import roofline
from climax_hpc.kernels.roofline import FrontEndSize, Work, crps_work, loss_work, verification_work


def test_floor_is_the_slower_of_arithmetic_and_memory():
    assert Work(989e12, 0).floor_seconds("h100") == 1
    assert Work(989e12, 2 * 3.35e12).floor_seconds("h100") == 2


def test_by_hand():
    """Two patches of one pixel, one variable: Q = 2 planes; D = 4, N = 2, bfloat16."""
    case = FrontEndSize("", B=1, V=1, H=1, W=2, p=1, D=4, N=2)
    assert case.forward() == Work(flop=2 * 1 * 2 * (2 + 4) * 2, bytes=2 * 2 + 2 * (4 * 2 + 2 * 4))
    assert case.packed_bytes == 2 * 16 * 2 * 2
    assert case.textbook_forward().flop == 2 * (4 * 16 + 2 * 4 * 4)
    assert verification_work(case).bytes == 2 * 3 * 4
    sums, gradient = loss_work(case)
    assert (sums.bytes, gradient.bytes) == (2 * (2 + 4), 2 * (2 + 4 + 2))
    sums, gradient = crps_work(case, members=3)
    assert sums == Work(flop=2 * (3 * 5 + 3 * 8), bytes=2 * (3 * 2 + 4 + 3))
    assert gradient == Work(flop=2 * 3 * 5, bytes=2 * (3 + 3 * 2))


def test_table_is_printed(capsys):
    roofline.main()
    text = capsys.readouterr().out
    assert "| 128×256, V=48, B=16 | forward | 55.6 | 120 | 178 | 178 | 56 | 56 | 25 |" in text
