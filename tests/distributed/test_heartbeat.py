"""Which rank is found hung, from what the ranks reported."""

from climax_hpc.distributed.heartbeat import RankObservation, RankReport, find_hung


def seen(places: int, *, life_at: float, place_at: float) -> RankObservation:
    report = RankReport(life=1, places=places, place=f"place {places}", host="node", process=1)
    return RankObservation(report=report, life_at=life_at, place_at=place_at)


def test_who_is_hung() -> None:
    well = {0: seen(7, life_at=99, place_at=99), 1: seen(7, life_at=98, place_at=95)}
    assert find_hung(well, now=100, timeout=10) is None
    # Before the second step kernels may still be compiling.
    assert find_hung({0: seen(1, life_at=99, place_at=65)}, now=100, timeout=10) is None
    # No progress since second 50; rank 1 has passed fewer places, so the others wait for it.
    stuck = {0: seen(7, life_at=99, place_at=50), 1: seen(6, life_at=99, place_at=50)}
    found = find_hung(stuck, now=100, timeout=10)
    assert found
    assert found[0] == 1
    assert found[1].startswith("is stuck in place 6 since ")
    assert "(50 s)" in found[1]
    # No sign of life is worse than no progress.
    silent = stuck | {2: seen(8, life_at=80, place_at=80)}
    found = find_hung(silent, now=100, timeout=10)
    assert found
    assert found[0] == 2
    assert "gives no sign of life since " in found[1]
