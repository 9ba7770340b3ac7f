"""Goodput: the closed form against the simulation, a brute-force walk and known limits; the command and its input."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from climax_hpc.cli import main, run
from climax_hpc.errors import UserError
from climax_hpc.tools.plan.goodput import FailureModel, failure_times, simulate
from climax_hpc.tools.plan.recovery import MEASURED, FailuresConfig, Recovery

DURATIONS = Recovery(stall=2.0, write=40.0, detection=5.0, restart=25.0, requeue=175.0, source="a test")


def model(**changes: float) -> FailureModel:
    """1024 nodes that lose a rank or a node every 3 h."""
    shares = {"requeue_share": 0.5, "hang_share": 0.02} | changes
    mean_between = shares.pop("mean_between", 10_800.0)
    return FailureModel.of(DURATIONS, nodes=1024, mean_between=mean_between, hang_timeout=900, **shares)


@pytest.mark.parametrize("interval", [60.0, 210.0, 600.0, 1800.0])
@pytest.mark.parametrize("mean_between", [1800.0, 10_800.0])
def test_simulation_agrees_with_the_closed_form(interval: float, mean_between: float) -> None:
    """4000 days are 32 000 to 192 000 failures; the difference found is below 0.002 (0.003 leaves room for a seed)."""
    failing = model(mean_between=mean_between)
    found = simulate(failing, interval, days=4000, seed=1)
    assert found.goodput == pytest.approx(failing.goodput(interval), abs=0.003)
    assert found.goodput + found.redone + found.stalls + sum(found.recovery.values()) == pytest.approx(1)
    assert found.lowest <= found.goodput <= found.highest


def test_a_walk_second_by_second_agrees() -> None:
    """An independent simulation with a step of 1 s, failures by a coin."""
    failing = replace(model(mean_between=600.0), kinds={"lost": (1.0, 30.0)})
    random, interval = np.random.default_rng(3), 120
    fails = random.random(2_000_000) < 1 / 600
    durable = work = since = recovering = 0
    complete_at: dict[int, int] = {}
    for second, failed in enumerate(fails):
        if failed:
            work, since, recovering, complete_at = durable, 0, 30, {}
            continue
        if recovering:
            recovering -= 1
            continue
        durable = complete_at.pop(second, durable)
        since += 1
        if since > interval:  # the stall of 2 s
            if since == interval + 2:
                complete_at[second + 40], since = work, 0
            continue
        work += 1
    assert durable / len(fails) == pytest.approx(failing.goodput(interval), abs=0.01)


def test_without_write_time_it_is_dalys_equation() -> None:
    failing = replace(model(), write=0.0, kinds={"lost": (1.0, 30.0)})
    M, T, C, R = failing.mean_between, 300.0, failing.stall, 30.0
    daly = T / (M * math.exp(R / M) * math.expm1((T + C) / M))
    assert failing.goodput(T) == pytest.approx(daly, rel=1e-12)


def test_the_best_interval_is_youngs_for_rare_failures() -> None:
    failing = replace(model(mean_between=1e7), write=0.0)
    best = failing.best_interval()
    assert best == pytest.approx(failing.young, rel=0.001)
    assert all(failing.goodput(best) >= failing.goodput(best * factor) for factor in (0.5, 0.9, 1.1, 2))


def test_more_failures_longer_durations_lower_goodput() -> None:
    values = [model(mean_between=mean).goodput(300) for mean in (1e9, 1e5, 1e4, 1e3, 10.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(300 / 302, abs=1e-4)
    assert values[-1] == pytest.approx(0, abs=1e-4)
    assert model(requeue_share=0.9).goodput(300) < model(requeue_share=0.1).goodput(300)


def test_a_seed_gives_the_same_failures() -> None:
    first, again, other = (simulate(model(), 300, days=50, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("mean_between", [1e4, 1e7, 1e12])
def test_no_part_of_a_run_has_more_work_than_time(mean_between: float) -> None:
    found = simulate(model(mean_between=mean_between), 300, days=30, seed=1)
    assert 0 <= found.lowest <= found.goodput <= found.highest <= 300 / 302 + 1e-9


def test_more_failures_than_can_be_followed_are_refused() -> None:
    with pytest.raises(UserError, match=r"failures.simulated_days = 1000: .* set failures.simulated_days to 34\.7"):
        simulate(model(mean_between=10.0), 300, days=1000, seed=0)


def test_nodes_fail_as_often_as_the_job_is_said_to() -> None:
    times = failure_times(model(), 2000 * 86_400.0, np.random.default_rng(0))
    assert len(times) == pytest.approx(16_000, rel=0.03)  # 4 standard deviations
    between = np.diff(times)
    assert between.min() >= 0
    assert between.std() == pytest.approx(between.mean(), rel=0.05)  # exponential


def test_measured_durations_reach_the_goal_at_1024_nodes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "goodput.json"
    main(["plan", "--goodput=true", "--nodes=1024", f"--json={out}"])
    shown, written = capsys.readouterr().out, json.loads(out.read_text())
    assert written["best"]["simulated"]["goodput"] >= 0.95
    assert f"goodput {written['best']['simulated']['goodput']:.2%} (" in shown
    assert shown.count("   best") == 1
    assert MEASURED.source in shown.replace("\n", " ")
    assert written["model"]["mean_between"] == 10_800


def test_parts_of_a_start_are_printed_unless_another_duration_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recovery.json"
    parts = '"restart_parts": {"launcher": 0.5, "first step": 3.5}'
    path.write_text(
        f'{{"stall": 1, "write": 2, "detection": 3, "restart": 4, "requeue": 5, "source": "here", {parts}}}'
    )
    words = ["plan", "--goodput=true", "--failures.simulated_days=10", f"--failures.measured={path}"]
    main(words)
    assert "a start in the job: launcher 500 ms, first step 3.5 s" in capsys.readouterr().out
    main([*words, "--failures.restart=9"])
    assert "a start in the job" not in capsys.readouterr().out


def test_settings_override_a_file_of_measured_durations(tmp_path: Path) -> None:
    path = tmp_path / "recovery.json"
    path.write_text('{"stall": 1, "write": 2, "detection": 3, "restart": 4, "requeue": 5, "source": "here"}')
    found = FailuresConfig(measured=str(path), stall=0.0, requeue=600.0).recovery()
    assert found == Recovery(
        stall=0, write=2, detection=3, restart=4, requeue=600, source="here; stall, requeue as given"
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hours_between=0", "failures.hours_between must be positive"),
        ("stall=-1", "failures.stall must not be negative"),
        ("hang_share=1.5", "failures.hang_share must be in [0, 1]"),
        ("hang_share=0.5", "failures.requeue_share + failures.hang_share: at most 1"),
        ("measured=nowhere.json", "nowhere.json"),
    ],
)
def test_bad_settings_are_refused(word: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        run(["plan", "--goodput=true", f"--failures.{word}"])
    assert message in str(refused.value)


def test_one_plan_at_a_time() -> None:
    with pytest.raises(UserError, match="search and goodput: two different plans"):
        run(["plan", "--goodput=true", "--search=true"])


@pytest.mark.parametrize("content", ['{"stall": 1}', "[]", '{"stall": -1, "write": 2}', "no JSON"])
def test_a_damaged_file_of_durations_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "recovery.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"recovery\.json"):
        FailuresConfig(measured=str(path)).recovery()
