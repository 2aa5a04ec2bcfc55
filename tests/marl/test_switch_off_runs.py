"""The switch-off matrix of teams at play: against dynamic programming, and what must hold in every rollout."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from teamcredit.credit import shapley_from_values
from teamcredit.credit.chains import delayed_chain, key_and_door
from teamcredit.credit.plate_and_door import plate_and_door
from teamcredit.envs.base import TeamSpec, View
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.envs.key_and_door import KeyAndDoor
from teamcredit.envs.native import NativeEnv, Outcome
from teamcredit.envs.parallel_api import to_parallel_env
from teamcredit.envs.plate_and_door import PlateAndDoor
from teamcredit.envs.randomness import TASK, Clock, uniform
from teamcredit.envs.registry import make
from teamcredit.marl import situations, switch_off
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.cli_output import to_json
from teamcredit.marl.cli_switch_off import ROWS_SHOWN, switch_off_document, switch_off_text
from teamcredit.marl.config import Config, NetworkConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.exact_values import ExactValues, enumerate_values
from teamcredit.marl.policies import Team, parse_members
from teamcredit.marl.run import Run, train
from teamcredit.marl.switch_off import SwitchOff, measure_switch_off

REFERENCES = ["random", "noop"]


@dataclass(frozen=True)
class Untrained(Run):
    """A run whose task and team are given, not read from a folder."""

    env: Any = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    team: Team = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def env_steps(self) -> int:
        return 0


def team_of(env: Any, members: Sequence[str] = (), *, kind: Literal["mlp", "gru"] = "mlp", sampled: bool = False) -> Team:
    """Untrained agents, some replaced by planted members."""
    torch.manual_seed(0)
    spec = env.spec
    net = UtilityNetwork(NetworkConfig(kind=kind, hidden=8), num_agents=spec.num_agents, obs_dim=spec.obs_dim, num_actions=spec.num_actions)
    return Team(net, *parse_members(members, spec, getattr(env, "scripted", {})), sampled=sampled)


def run_of(env: Any, members: Sequence[str] = (), **options: Any) -> Run:
    return Untrained(Path("nowhere"), Config(env.spec.name), Path("nowhere"), env=env, team=team_of(env, members, **options))


def everybody(env: Any, policy: str) -> list[str]:
    return [f"{agent}={policy}" for agent in env.spec.agents]


def chain_truth(reference: Any, script: str) -> Callable[[DelayedChain], Any]:
    def truth(env: DelayedChain) -> Any:
        hits = torch.ones(env.steps, env.num_agents, dtype=torch.bool)
        if script == "even":
            hits[1::2] = False
        return delayed_chain(env.weights, hits, num_actions=env.num_actions, reference=reference)

    return truth


CASES: dict[str, tuple[Any, str, Callable[[Any, Any], Any]]] = {
    "plate and door": (PlateAndDoor(), "trained", lambda env, reference: plate_and_door(reference)),
    "plate and door, little time": (PlateAndDoor(4), "trained", lambda env, reference: plate_and_door(reference, horizon=4)),
    "delayed chain": (DelayedChain(), "trained", lambda env, reference: chain_truth(reference, "trained")(env)),
    "delayed chain, half hit": (DelayedChain(3, 5), "even", lambda env, reference: chain_truth(reference, "even")(env)),
    "key and door": (KeyAndDoor(), "trained", lambda env, reference: key_and_door(reference)),
}
every_case = pytest.mark.parametrize("case", list(CASES))
every_reference = pytest.mark.parametrize("reference", REFERENCES)


def assert_adds_up(result: SwitchOff) -> None:
    """Entries to each agent's credit, credits to the total, the total to what everybody and nobody expect: in every rollout, so exactly."""
    discount = result.gamma ** result.moments.to(torch.float64)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(torch.einsum("t,eta->ea", discount, result.matrix), result.credit, **close)
    torch.testing.assert_close(result.credit.sum(1), result.total, **close)
    torch.testing.assert_close(result.values[-1, :, 0] - result.values[0, :, 0], result.total, **close)
    if len(result.coalitions) > 2:
        torch.testing.assert_close(shapley_from_values(result.values[:, :, 0]).T, result.credit, **close)


@cache
def enumerated(case: str, reference: str) -> ExactValues:
    env, script, _ = CASES[case]
    return enumerate_values(env, team_of(env, everybody(env, script)), reference)


# Without sampling ------------------------------------------------------------------------------------------------------


@every_case
@every_reference
def test_the_tasks_own_code_gives_the_values_of_dynamic_programming(case, reference):
    env, _, truth = CASES[case]
    expected, found = truth(env, reference), enumerated(case, reference)
    torch.testing.assert_close(found.rewards, expected.rewards, rtol=0, atol=0)
    torch.testing.assert_close(found.values[:, : len(found.rewards)], expected.values[:, : len(found.rewards)], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.matrix.sum(0), shapley_from_values(expected.values[:, 0]), rtol=0, atol=1e-9)
    if hasattr(expected, "matrix"):
        torch.testing.assert_close(found.matrix, expected.matrix, rtol=0, atol=1e-9)


def test_the_printed_digits_of_plate_and_door_come_out_of_its_own_code():
    env = make("native/plate-and-door")
    matrix = enumerate_values(env, team_of(env, everybody(env, "trained")), "random").matrix
    printed = [[0.026613, 0.058926, 0], [0.084313, 0.205026, 0], [0.058387, 0.423270, 0]]
    torch.testing.assert_close(matrix, torch.tensor(printed, dtype=torch.float64), rtol=0, atol=6e-7)


@pytest.mark.parametrize("kind", ["mlp", "gru"])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_agents_with_a_memory_are_enumerated_as_they_are_simulated(kind, gamma):
    env = KeyAndDoor(2, 3, key_step=0, door_step=1)
    run = run_of(env, ["agent_0=trained"], kind=kind)
    exact = enumerate_values(env, run.team, "random", gamma=gamma)
    simulated = measure_switch_off(run, reference="random", episodes=1, rollouts=1_000, gamma=gamma)
    assert_near(simulated, exact.matrix)


def test_what_cannot_be_enumerated_is_named():
    plate = PlateAndDoor()
    trained = everybody(plate, "trained")
    with pytest.raises(ConfigError, match="planted member draws its actions"):
        enumerate_values(plate, team_of(plate, [*trained[:2], "dummy=random"]), "random")
    with pytest.raises(ConfigError, match="team draws its actions"):
        enumerate_values(plate, team_of(plate, sampled=True), "random")
    with pytest.raises(ConfigError, match=r"states with 3\^3 joint actions each are more than the 20"):
        enumerate_values(plate, team_of(plate, trained), "random", limit=20)
    cued = DelayedChain(3, 3, cue=True)
    with pytest.raises(ConfigError, match=r"chance within an episode \(target\)"):
        enumerate_values(cued, team_of(cued, everybody(cued, "trained")), "noop")
    crowd = KeyAndDoor(7)
    with pytest.raises(ConfigError, match="128 coalitions"):
        enumerate_values(crowd, team_of(crowd), "noop")
    other = make(lambda: to_parallel_env(KeyAndDoor()))
    with pytest.raises(ConfigError, match="no native task"):
        enumerate_values(other, team_of(other), "random")


# By simulation ---------------------------------------------------------------------------------------------------------


def assert_near(result: SwitchOff, matrix: torch.Tensor) -> None:
    """Within four standard errors everywhere; equal where there is no error."""
    off = (result.matrix[0] - matrix).abs()
    assert (off <= 4 * result.error[0] + 1e-9).all(), (off / result.error[0]).max()


@every_case
@every_reference
def test_simulated_matrices_agree_with_the_truth_within_four_standard_errors(case, reference):
    env, script, _ = CASES[case]
    rollouts = 160 if reference == "random" else 2  # nobody draws anything then
    result = measure_switch_off(run_of(env, everybody(env, script)), reference=reference, episodes=1, rollouts=rollouts)
    expected = enumerated(case, reference)
    assert_near(result, expected.matrix)
    assert_adds_up(result)
    assert torch.equal(result.rewards[0], expected.rewards)
    assert result.coalitions_used == f"all {2**env.spec.num_agents} coalitions"
    if reference == "noop":
        assert not result.error.any()


def test_a_dummy_and_null_steps_and_agents_have_exactly_nothing_in_every_rollout():
    plate, chain, key = (
        measure_switch_off(run_of(env, everybody(env, "trained")), reference="random", episodes=2, rollouts=16)
        for env in (PlateAndDoor(), DelayedChain(), KeyAndDoor())
    )
    for zero in (
        plate.matrix[..., 2], plate.error[..., 2], plate.credit[:, 2], chain.matrix[..., 3], chain.error[..., 3],
        chain.matrix[:, 4], chain.error[:, 4], key.matrix[..., 2], key.matrix[:, [0, 2, 3, 5]], key.error[:, [0, 2, 3, 5]],
    ):  # fmt: skip
        assert not zero.any()
    assert chain.error[:, :4, :3].all()
    assert key.matrix[:, 4, 0].tolist() == [0, 0]


def test_above_six_agents_sampled_orders_are_unbiased_and_add_up():
    env = KeyAndDoor(8, key_agent=5, door_agent=2)
    result = measure_switch_off(run_of(env, everybody(env, "trained")), reference="random", episodes=1, rollouts=192)
    assert_near(result, key_and_door("random", num_agents=8, key_agent=5, door_agent=2).matrix)
    assert_adds_up(result)
    assert not result.matrix[..., [0, 1, 3, 4, 6, 7]].any()
    assert result.coalitions.tolist() == [[False] * 8, [True] * 8]
    assert result.coalitions_used == "58 sampled coalitions a rollout (rings)"


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("every", [2, 3, 20])
def test_a_block_of_steps_earns_what_its_steps_earn(every, gamma):
    """The same luck serves every moment, so keeping fewer of them changes no figure that is left."""
    run = run_of(DelayedChain(3, 8), everybody(DelayedChain(3), "trained"))
    fine, coarse = (measure_switch_off(run, reference="random", episodes=2, rollouts=8, every=step, gamma=gamma) for step in (1, every))
    discount = gamma ** torch.arange(every, dtype=torch.float64)
    for name in ("matrix", "rewards"):
        whole, blocks = getattr(fine, name), getattr(coarse, name)
        for block in range(blocks.shape[1]):
            steps = whole[:, block * every : (block + 1) * every]
            torch.testing.assert_close(
                blocks[:, block], torch.einsum("k,ek...->e...", discount[: steps.shape[1]], steps), rtol=0, atol=1e-12
            )
    assert coarse.moments.tolist() == list(range(0, 8, every))
    assert torch.equal(coarse.values, fine.values[:, :, ::every])
    torch.testing.assert_close(coarse.credit, fine.credit, rtol=0, atol=1e-12)
    assert_adds_up(coarse)


@pytest.mark.parametrize("kind, gain", [("mlp", 1.0), ("gru", 8.0)])
def test_with_everybody_as_they_are_a_copy_goes_on_as_the_episode_did(kind, gain):
    """A deterministic team in a deterministic task: V_N is what was still paid, so states and memories are the true ones."""
    env = make("native/delayed-chain", null_step=False)
    run = run_of(env, kind=kind)
    with torch.no_grad():
        for parameter in run.team.utility.parameters():
            parameter.mul_(gain)  # so that what a recurrent agent remembers changes what it does
    result = measure_switch_off(run, reference="random", episodes=2, rollouts=2)
    left = result.rewards.flip(1).cumsum(1).flip(1)
    assert left.any()
    torch.testing.assert_close(result.values[-1], left, rtol=0, atol=1e-12)
    assert not result.value_error[-1].any()


def test_episodes_of_unequal_length_end_where_they_end_and_truncation_counts_as_an_end():
    env = PlateAndDoor()
    idle = measure_switch_off(run_of(env, everybody(env, "noop")), reference="random", episodes=2, rollouts=64)
    assert idle.truncated.all()
    assert idle.length.tolist() == [8, 8]
    assert (idle.total < 0).all()  # at random the walker might have arrived
    assert_adds_up(idle)
    mixed = measure_switch_off(run_of(env, ["guard=trained", "walker=random"]), reference="noop", episodes=12, rollouts=8)
    assert len(mixed.length.unique()) > 2
    assert_adds_up(mixed)
    for episode, length in enumerate(mixed.length.tolist()):
        assert mixed.blocks(episode) == length
        for beyond in (mixed.matrix, mixed.error, mixed.rewards):
            assert not beyond[episode, length:].any()
        assert not mixed.values[:, episode, length:].any()
    assert torch.equal(mixed.rewards.sum(1) > 0, ~mixed.truncated)


def test_a_team_that_draws_its_actions_has_errors_and_adds_up():
    result = measure_switch_off(run_of(KeyAndDoor(2, 3, key_step=0, door_step=1), sampled=True), reference="random", rollouts=64)
    assert (result.value_error[-1, :, 0] > 0).all()
    assert_adds_up(result)


def test_a_run_is_read_from_its_folder(tmp_path):
    env = PlateAndDoor()
    small = {"replay.rollout_steps": 16, "replay.num_envs": 4, "evaluation.episodes": 2, "evaluation.final_episodes": 2}
    train("native/plate-and-door", steps=64, options={"members": everybody(env, "trained"), **small}, out=tmp_path / "run")
    found, known = (
        measure_switch_off(run, reference="random", episodes=2, rollouts=4)
        for run in (str(tmp_path / "run"), run_of(env, everybody(env, "trained")))
    )
    assert torch.equal(found.matrix, known.matrix)


def test_figures_are_the_seeds_and_do_not_depend_on_how_copies_are_gathered(monkeypatch):
    run = run_of(PlateAndDoor(), everybody(PlateAndDoor(), "trained"))
    first, other = (measure_switch_off(run, reference="random", episodes=3, rollouts=4, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.matrix, other.matrix)
    said = []
    monkeypatch.setattr(situations, "copies_at_once", lambda env: 2)
    monkeypatch.setattr(switch_off, "copies_at_once", lambda env: 23)
    again = measure_switch_off(run, reference="random", episodes=3, rollouts=4, on_progress=said.append)
    assert torch.equal(first.matrix, again.matrix)
    assert first.env_steps == again.env_steps
    wanted = 3 * 3 * 8 * 4
    assert said[-1] == f"switch-off: {wanted} of {wanted} continuations"


class Lottery(NativeEnv[Any]):
    """Three steps; agent 0 buys a ticket with action 1, which the task's own luck makes worth 1 or nothing."""

    def __init__(self):
        self._plate = PlateAndDoor(3)
        self.spec = TeamSpec("lottery", ("buyer", "idler"), 2, obs_dim=1, state_dim=1, episode_limit=3, noop=(0, 0))

    @property
    def scripted(self) -> dict[str, Callable]:
        return {"buy": lambda obs, available: torch.ones(obs.shape[:-1], dtype=torch.int64)}

    def begin(self, clock: Clock) -> Any:
        return self._plate.begin(clock)

    def advance(self, task: Any, action: torch.Tensor, clock: Clock) -> tuple[Any, Outcome]:
        won = (uniform(clock.key(TASK)) < 0.5) & (action[:, 0] == 1)
        task = type(task)(task.guard, task.walker, task.elapsed + 1)
        ended = task.elapsed == 3
        return task, Outcome(won.float(), None, ended, torch.zeros_like(ended))

    def observe(self, task: Any) -> View:
        seen = task.elapsed.float().view(-1, 1)
        everyone = torch.ones(len(seen), 2, dtype=torch.bool)
        return View(seen.unsqueeze(1).expand(-1, 2, -1), seen, everyone.unsqueeze(-1).expand(-1, -1, 2), everyone)


def test_a_native_tasks_own_luck_is_drawn_again_in_every_rollout():
    """V_N is the mean over tickets to come, not what this episode's tickets won; the winnings of a step are no credit."""
    env = Lottery()
    result = measure_switch_off(run_of(env, everybody(env, "buy")), reference="noop", episodes=4, rollouts=256)
    assert len(result.rewards.sum(1).unique()) > 1  # episodes win differently
    expected = torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64).expand(4, 3)
    assert ((result.values[-1] - expected).abs() < 4 * result.value_error[-1]).all()
    assert ((result.matrix[..., 0] - 0.5).abs() < 4 * result.error[..., 0]).all()
    assert not result.matrix[..., 1].any()
    assert "luck of the task" in result.resampled


def test_copies_of_a_parallel_env_give_the_same_matrix_and_keep_the_tasks_luck():
    own = KeyAndDoor(2, 3, key_step=0, door_step=1)
    wrapped = make(lambda: to_parallel_env(KeyAndDoor(2, 3, key_step=0, door_step=1)))
    options: dict[str, Any] = {"reference": "random", "episodes": 2, "rollouts": 4, "every": 2}
    native, other = (measure_switch_off(run_of(env), **options) for env in (own, wrapped))
    torch.testing.assert_close(native.values, other.values, rtol=0, atol=0)  # no chance but the agents', and theirs is the same
    lottery = make(lambda: to_parallel_env(Lottery()))
    run = run_of(lottery)
    object.__setattr__(run, "team", Team(run.team.utility, *parse_members(["buyer=buy"], lottery.spec, Lottery().scripted)))
    kept = measure_switch_off(run, reference="random", episodes=3, rollouts=2)
    torch.testing.assert_close(kept.values[-1], kept.rewards.flip(1).cumsum(1).flip(1), rtol=0, atol=1e-12)  # these very tickets
    assert "copied from the episode played" in kept.resampled


def test_what_cannot_be_measured_is_named():
    run = run_of(PlateAndDoor())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"episodes": 0}, "--episodes 0 must be at least 1"),
        ({"rollouts": 1}, "no standard error"),
        ({"every": 0}, "every m-th step"),
        ({"gamma": 1.5}, "--gamma 1.5 must lie above 0"),
        ({"reference": "peer"}, 'no reference "peer"'),
    ]
    for options, message in wrong:
        asked: dict[str, Any] = {"reference": "random", **options}
        with pytest.raises(ConfigError, match=message):
            measure_switch_off(run, **asked)


# As it is printed ------------------------------------------------------------------------------------------------------


def test_the_document_is_json_and_the_table_shows_steps_agents_and_sums():
    env = PlateAndDoor()
    run = run_of(env, everybody(env, "trained"))
    document = json.loads(to_json(switch_off_document(run, measure_switch_off(run, reference="noop", episodes=2, rollouts=2))))
    assert document["agents"] == {
        "guard": {"value": 0, "interval": [0, 0]}, "walker": {"value": 1, "interval": [1, 1]}, "dummy": {"value": 0, "interval": [0, 0]},
    }  # fmt: skip
    assert document["coalitions"][6] == ["walker", "dummy"]
    assert document["matrices"][1]["matrix"] == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    lines = switch_off_text(document).splitlines()
    assert lines[2].split() == ["step", "reward", "guard", "walker", "dummy"]
    assert [line.split()[:2] for line in lines[3:7]] == [["0", "0"], ["1", "0"], ["2", "1"], ["sum", "1"]]
    assert lines[5].split()[2:] == ["0", "1", "+-", "0", "0"]
    assert lines[7] == "together 1 +- 0: from the first step on the team expects 1, everybody following noop 0."
    assert lines[-2].startswith("mean of the 2 episodes: guard 0, walker 1, dummy 0; together 1.")


def test_of_a_long_episode_the_largest_rows_are_shown_in_their_order():
    env = DelayedChain(2, 60)
    run = run_of(env, everybody(env, "trained"))
    document = switch_off_document(run, measure_switch_off(run, reference="noop", episodes=1, rollouts=2))
    text = switch_off_text(document)
    steps = [int(line.split()[0]) for line in text.splitlines() if line.split()[0].isdigit() and "not shown" not in line]
    assert len(steps) == ROWS_SHOWN
    assert steps == sorted(steps)
    largest = env.weights.amax(1)
    shown = torch.zeros(60, dtype=torch.bool)
    shown[steps] = True
    assert largest[shown].min() >= largest[~shown].max() > 0
    assert f"36 of 60 rows not shown: none of their entries is beyond +-{float(largest[~shown].max()):g}." in text
    assert document["agents"]["agent_0"]["interval"] is None


def test_blocks_are_named_by_their_first_and_last_step():
    env = KeyAndDoor()
    run = run_of(env, everybody(env, "trained"))
    text = switch_off_text(switch_off_document(run, measure_switch_off(run, reference="random", episodes=1, rollouts=4, every=5)))
    assert [line.split()[0] for line in text.splitlines()[3:5]] == ["0-4", "5"]
