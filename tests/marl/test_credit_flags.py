"""What is said about several estimates side by side: doubts where there are some, and not elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from teamcredit.credit.agreement import agreement
from teamcredit.credit.base import Credit
from teamcredit.marl.config import Config
from teamcredit.marl.credit_flags import flags
from teamcredit.marl.run import Run, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out: Path = tmp_path_factory.mktemp("flags") / "run"
    return train("native/foraging-5x5-3p-1f", algo="vdn", steps=128, options={"network.hidden": 8}, out=out)


def credit(values: list[float], half_width: float, reference: str = "random") -> Credit:
    value = torch.tensor(values, dtype=torch.float64)
    words = {"estimand": "", "method": "", "reference": reference, "unit": "", "resampled": ""}
    return Credit(
        value, value - half_width, value + half_width, total=0.0, evaluations=0, episodes=0, env_steps=0, approximate=False, **words
    )


def warnings_of(run: Run, methods: list[str], estimates: list[Credit]) -> list[str]:
    found = flags(run, methods, estimates, agreement(estimates).tolist())
    return [f"{flag.about}: {flag.text}" for flag in found if flag.level == "warning"]


def test_clear_estimates_against_two_references_give_no_warning(run):
    clear = [credit([0.1, 0.2, 0.3], 0.01), credit([0.1, 0.2, 0.3], 0.01, "noop")]
    assert warnings_of(run, ["shapley", "shapley"], clear) == []


def test_overlapping_intervals_are_warned_of_once_for_all_estimates(run):
    vague = [credit([0.1, 0.2, 0.3], 0.5), credit([0.1, 0.3, 0.2], 0.5)]
    (said,) = warnings_of(run, ["shapley", "difference"], vague)
    assert said.startswith("shapley (random), difference (random): its 95% intervals do not tell any two agents apart")


def test_noop_alone_is_warned_of_since_a_guard_earns_nothing_against_it(run):
    (said,) = warnings_of(run, ["shapley"], [credit([0.1, 0.2, 0.3], 0.01, "noop")])
    assert "a guard" in said


def test_a_learned_estimate_that_ranks_otherwise_than_the_played_one_is_warned_of(run):
    played, learned = credit([0.1, 0.2, 0.3], 0.01), credit([0.3, 0.2, 0.1], 0.01)
    (said,) = warnings_of(run, ["shapley", "mixer"], [played, learned])
    assert said.startswith("mixer (random): ranks the agents unlike shapley (random)")
    vague = replace(played, low=played.value - 1, high=played.value + 1)
    assert all("unlike" not in text for text in warnings_of(run, ["shapley", "mixer"], [vague, learned]))


def test_agents_that_stand_in_for_each_other_are_named_where_leaving_out_shows_nothing(run):
    shapley, alone = credit([0.3, 0.3, 0.3], 0.05), credit([0.0, 0.0, 0.3], 0.05)
    found = flags(run, ["shapley", "difference"], [shapley, alone], agreement([shapley, alone]).tolist())
    (said,) = [flag.text for flag in found if "stand in" in flag.text]
    assert said.startswith("agent_0, agent_1: earns with others")


def test_the_data_a_learned_estimate_comes_from_are_named(run):
    found = flags(run, ["mixer"], [credit([0.1, 0.2, 0.3], 0.01)], [[1.0]])
    assert any("epsilon" in flag.text and flag.level == "note" for flag in found)
    assert isinstance(run.config, Config)
