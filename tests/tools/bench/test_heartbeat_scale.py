"""The imitation of a run with many ranks: all are heard, and rank 0 gets one datagram for each other node."""

import json

import pytest

from climax_hpc.tools.bench.heartbeat_scale import ImitatedRun, measure, node_messages, planned_beats


@pytest.mark.slow
def test_light_and_simulated_ranks_are_heard() -> None:
    row = measure(ImitatedRun(ranks=40, ranks_per_node=4, light=12, hang_timeout=8.0, seconds=5.0))
    assert (row["ranks"], row["nodes"]) == (40, 10)
    assert row["heard"] == 1
    assert row["descriptors_per_rank"] == 1
    # 3 ranks of its own node and 9 other nodes; an interval may take a quarter longer, and none ends with the window.
    assert 12 / 2 < row["received_per_interval"] < 12 * 1.5
    assert row["sent_per_interval"] == pytest.approx(row["received_per_interval"], rel=0.2)


def test_every_simulated_rank_has_one_place_in_the_interval() -> None:
    for by_rank in (False, True):
        run = ImitatedRun(ranks=67, ranks_per_node=8, light=16, by_rank=by_rank)
        beats = planned_beats(run)
        assert [rank for _, ranks in beats for rank in ranks] == list(range(16, 67))
        assert len(beats) == (51 if by_rank else 7)
        assert [turn for turn, _ in beats] == sorted(turn for turn, _ in beats)
        assert all(0 <= turn < 1 for turn, _ in beats)


def test_a_node_of_eight_ranks_sends_one_datagram() -> None:
    (message,) = node_messages(list(range(4088, 4096)), life=10**6)
    assert message["rank"] == 4088
    assert [row[0] for row in message["others"]] == list(range(4089, 4096))
    assert len(json.dumps(message)) < 1000
