"""Clocks and neighbours of tiles, with stand-ins for a GPU."""

from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import timing

    monkeypatch.setattr(timing.torch.cuda, "is_available", lambda: True)
    return timing


@pytest.mark.parametrize(("nbytes", "number"), [(20 << 20, 6), (1 << 30, 2), (1, 8)])
def test_inputs_exceed_the_cache_twice(timing, monkeypatch, nbytes, number):
    properties = SimpleNamespace(L2_cache_size=50 << 20)
    monkeypatch.setattr(timing.torch.cuda, "get_device_properties", lambda _: properties)
    assert timing.copies(nbytes) == number
    assert nbytes * number > 2 * properties.L2_cache_size or number == 8


def test_inputs_take_turns(timing, monkeypatch):
    events = []
    monkeypatch.setattr(timing, "gpu_time", lambda run: [run() for _ in range(5)])
    timing.seconds(lambda: events.append("a"), lambda: events.append("b"))
    assert events == ["a", "b", "a", "b", "a"]


def test_graphs_are_replayed_in_the_order_of_their_capture(timing, monkeypatch):
    """They share the memory of their outputs, so that none may be replayed out of turn."""
    captured: list[object] = []
    replayed: list[object] = []
    pools = set()

    class Graph:
        def replay(self) -> None:
            replayed.append(self)

    def capture(graph: Graph, pool: object) -> nullcontext[None]:
        captured.append(graph)
        pools.add(pool)
        return nullcontext()

    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name, stand_in in {
        "Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda _: nullcontext(),
        "graph_pool_handle": lambda: "pool", "CUDAGraph": Graph, "graph": capture,
    }.items():  # fmt: skip
        monkeypatch.setattr(timing.torch.cuda, name, stand_in)
    monkeypatch.setattr(timing, "gpu_time", lambda run: [run() for _ in range(5)])
    runs = []
    timing.device_seconds(lambda: runs.append("a"), lambda: runs.append("b"))
    assert runs == ["a", "b"] * 4  # three times to warm up, once to capture
    assert pools == {"pool"}
    assert replayed == [*captured, *captured, captured[0]]


def test_neighbours_of_a_tile_differ_in_one_number(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day.tiles import neighbours

    class Tile(NamedTuple):
        rows: int
        planes: int
        warps: int
        stages: int

    tile = Tile(rows=128, planes=1, warps=4, stages=2)
    assert set(neighbours(tile)) == {
        tile._replace(rows=64), tile._replace(planes=2), tile._replace(warps=2), tile._replace(warps=8),
        tile._replace(stages=1), tile._replace(stages=3),
    }  # fmt: skip
