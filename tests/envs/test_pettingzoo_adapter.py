"""The adapter of ParallelEnvs, on small environments in which everything is known by hand."""

import gc
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv
from teamcredit.envs.base import Saved
from teamcredit.envs.errors import ContractBroken, UnsupportedTask
from teamcredit.envs.pettingzoo import PettingZooTeam

torch.set_num_threads(1)


class Count(ParallelEnv):
    """Each agent sees (steps taken, a number drawn at reset, sum of its actions); reward 1 each; truncated after `length` steps."""

    metadata: ClassVar = {"name": "count"}
    length = 4
    widths = (3, 3)
    num_choices = (2, 2)
    made = 0

    def __init__(self):
        type(self).made += 1
        self.closed = 0
        self.possible_agents = ["a", "b"]
        self.spaces = {agent: Box(-np.inf, np.inf, (w,), np.float32) for agent, w in zip(self.possible_agents, self.widths, strict=True)}
        self.choices = {agent: Discrete(n) for agent, n in zip(self.possible_agents, self.num_choices, strict=True)}

    def observation_space(self, agent):
        return self.spaces[agent]

    def action_space(self, agent):
        return self.choices[agent]

    def see(self, agent) -> Any:
        return np.array([self.t, self.luck, self.played[agent], 9.0], dtype=np.float32)[: self.spaces[agent].shape[0]]

    def reset(self, seed=None, options=None):
        self.t, self.luck = 0, float(np.random.default_rng(seed).integers(1000))
        self.agents, self.played = list(self.possible_agents), dict.fromkeys(self.possible_agents, 0.0)
        return self.everything()

    def everything(self):
        return {agent: self.see(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents), "an action for an agent that is not there, or none for one that is"
        self.t += 1
        for agent, action in actions.items():
            self.played[agent] += float(np.sum(action))
        obs, infos = self.everything()
        over = self.t >= self.length
        flags = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, over)
        rewards = dict.fromkeys(self.agents, 1.0)
        if over:
            self.agents = []
        return obs, rewards, *flags, infos

    def close(self):
        self.closed += 1


def team(maker, **kwargs) -> PettingZooTeam:
    return PettingZooTeam(maker, name="probe", **kwargs)


def play(env: PettingZooTeam, actions: list[list[int]], *, autoreset: bool = False, seed: int = 3) -> list[Any]:
    """One copy, the given joint actions; (step, view) per env step."""
    state, _ = env.reset(torch.tensor([seed]))
    seen = []
    for action in actions:
        state, step, view = env.step(state, torch.tensor([action]), autoreset=autoreset)
        seen.append((step, view))
    return seen


STAY = [[0, 0]] * 6


def test_agents_stand_in_the_order_of_possible_agents_whatever_order_the_dicts_have():
    class Backwards(Count):
        def everything(self):
            obs, infos = super().everything()
            return dict(reversed(obs.items())), infos

    (step, _), *_ = play(team(Backwards), [[1, 0]])
    assert step.after.obs[0, :, 2].tolist() == [1.0, 0.0]


def test_the_last_observation_of_an_episode_is_kept_and_the_next_view_is_a_start():
    seen = play(team(Count), STAY[:4], autoreset=True)
    step, view = seen[-1]
    assert step.truncated.item()
    assert step.after.obs[0, 0, 0] == 4
    assert step.after.alive.all()
    assert view.obs[0, 0, 0] == 0


def test_a_truncated_team_is_not_terminated_and_a_terminated_one_is_not_truncated():
    class Solved(Count):
        def step(self, actions):
            obs, rewards, terminations, truncations, infos = super().step(actions)
            return obs, rewards, truncations, terminations, infos

    for maker, terminated in ((Count, False), (Solved, True)):
        step, _ = play(team(maker), STAY[:4])[-1]
        assert step.terminated.item() is terminated
        assert step.truncated.item() is not terminated


def test_one_truncated_agent_among_terminated_ones_makes_a_truncation_and_only_it_lives_on():
    class Mixed(Count):
        def step(self, actions):
            obs, rewards, _, truncations, infos = super().step(actions)
            over = truncations["a"]
            return obs, rewards, {"a": over, "b": False}, {"a": False, "b": over}, infos

    step, _ = play(team(Mixed), STAY[:4])[-1]
    assert step.truncated.item()
    assert not step.terminated.item()
    assert step.after.alive.tolist() == [[False, True]]
    assert (step.after.obs[0, 0] == 0).all()


@pytest.mark.parametrize(("limit", "steps", "truncated"), [(4, 4, True), (5, 4, False), (2, 2, True)])
def test_a_termination_exactly_at_the_time_limit_is_a_truncation_and_the_limit_also_cuts(limit, steps, truncated):
    class Solved(Count):
        def step(self, actions):
            obs, rewards, terminations, truncations, infos = super().step(actions)
            return obs, rewards, truncations, terminations, infos

    env = team(Solved, time_limit=limit)
    assert env.spec.episode_limit == limit
    step, _ = play(env, STAY[:steps])[-1]
    assert step.truncated.item() is truncated
    assert step.terminated.item() is not truncated


class Dying(Count):
    """Agent a dies in step 2."""

    def step(self, actions):
        obs, rewards, terminations, truncations, infos = super().step(actions)
        if self.t == 2:
            terminations["a"] = True
            self.agents = ["b"]
        return obs, rewards, terminations, truncations, infos


def test_an_agent_that_died_sees_zeros_has_action_0_alone_and_is_paid_nothing():
    seen = play(team(Dying, team_reward="sum"), STAY[:4])
    for (step, _), paid, alive in zip(seen, [2.0, 2.0, 1.0, 1.0], [[True, True], [False, True], [False, True], [False, True]], strict=True):
        assert step.reward.item() == paid
        assert step.after.alive[0].tolist() == alive
    after = seen[2][0].after
    assert (after.obs[0, 0] == 0).all()
    assert after.available[0].tolist() == [[True, False], [True, True]]
    assert seen[2][0].agent_reward.tolist() == [[0.0, 1.0]]


def test_the_mean_counts_a_dead_agent_as_paid_0():
    seen = play(team(Dying, team_reward="mean"), STAY[:4])
    assert [step.reward.item() for step, _ in seen] == [1.0, 1.0, 0.5, 0.5]


class Masked(Count):
    """Action 1 is forbidden in even steps; the mask comes in the infos, also at the end."""

    num_choices = (2, 3)

    def everything(self):
        obs, infos = super().everything()
        for agent in self.agents:
            mask = np.ones(self.choices[agent].n, dtype=np.int8)
            mask[1] = self.t % 2
            infos[agent]["action_mask"] = mask
        return obs, infos


class MaskedInDict(Masked):
    def observation_space(self, agent):
        return Dict({"observation": self.spaces[agent], "action_mask": Box(0, 1, (int(self.choices[agent].n),), np.int8)})

    def everything(self):
        obs, infos = super().everything()
        both = {agent: {"observation": obs[agent], "action_mask": infos[agent].pop("action_mask")} for agent in obs}
        return both, infos


@pytest.mark.parametrize("maker", [Masked, MaskedInDict])
def test_action_masks_in_infos_and_in_observations_read_alike_also_after_the_last_step(maker):
    seen = play(team(maker), STAY[:4])
    assert seen[0][0].after.available[0].tolist() == [[True, True, False], [True, True, True]]
    assert seen[3][0].after.available[0].tolist() == [[True, False, False], [True, False, True]]


def test_a_mask_that_allows_nothing_is_named():
    class Stuck(Masked):
        def everything(self):
            obs, infos = super().everything()
            if self.t == 2:
                infos["b"]["action_mask"][:] = 0
            return obs, infos

    with pytest.raises(ContractBroken, match="action mask of b at step 2 allows no action") as caught:
        play(team(Stuck), STAY)
    assert (caught.value.rule, caught.value.kind) == ("action-mask", "environment-contract")


def test_a_mask_missing_at_a_truncation_is_named_because_targets_bootstrap_from_it():
    class Forgets(Masked):
        def everything(self):
            obs, infos = super().everything()
            return obs, infos if self.t < self.length else {}

    with pytest.raises(ContractBroken, match="no action mask at step 4"):
        play(team(Forgets), STAY)


def test_unequal_agents_are_padded_with_zeros_and_masked():
    class Unequal(Count):
        widths = (2, 4)
        num_choices = (2, 5)

    env = team(Unequal)
    assert (env.spec.obs_dim, env.spec.num_actions, env.spec.state_dim) == (4, 5, 8)
    step, _ = play(env, [[1, 4]])[0]
    assert step.after.obs[0, 0, 2:].tolist() == [0.0, 0.0]
    assert step.after.obs[0, 1, 2:].tolist() == [4.0, 9.0]
    assert step.after.available[0].tolist() == [[True, True, False, False, False], [True] * 5]
    with pytest.raises(ValueError, match="a has actions 0 to 1, not 3"):
        play(env, [[3, 0]])


def test_discrete_observations_become_one_hot_and_images_stay_raw_bytes():
    class Numbered(Count):
        def observation_space(self, agent):
            return Discrete(6, start=-1)

        def see(self, agent):
            return self.t

    assert play(team(Numbered), STAY[:2])[1][0].after.obs[0, 0].tolist() == [0, 0, 0, 1, 0, 0]

    class Pixels(Count):
        def observation_space(self, agent):
            return Box(0, 255, (2, 2, 1), np.uint8)

        def see(self, agent):
            return np.array([0, 51, 255, self.t], dtype=np.uint8).reshape(2, 2, 1)

    env = team(Pixels)
    after = play(env, STAY[:1])[0][0].after
    assert env.spec.obs_dtype == after.obs.dtype == torch.uint8
    assert after.obs[0, 0].tolist() == [0, 51, 255, 1]
    torch.testing.assert_close(after.state[0, :3], torch.tensor([0.0, 0.2, 1.0]))


def test_images_beside_other_observations_are_scaled_to_one():
    class Both(Count):
        def observation_space(self, agent):
            return Box(0, 255, (3,), np.uint8) if agent == "a" else self.spaces[agent]

        def see(self, agent):
            return np.array([0, 51, 255], dtype=np.uint8) if agent == "a" else super().see(agent)

    env = team(Both)
    assert env.spec.obs_dtype == torch.float32
    torch.testing.assert_close(play(env, STAY[:1])[0][0].after.obs[0, 0], torch.tensor([0.0, 0.2, 1.0]))


def test_multi_discrete_actions_are_numbered_with_the_last_part_fastest_and_too_many_are_refused():
    class Pairs(Count):
        def action_space(self, agent):
            return MultiDiscrete([2, 3])

        def step(self, actions):
            self.got = actions["a"].tolist()
            return super().step(actions)

    env = team(Pairs)
    assert env.spec.num_actions == 6
    state, _ = env.reset(torch.tensor([0]))
    state, _, _ = env.step(state, torch.tensor([[5, 0]]))
    assert env.live(state, 0).got == [1, 2]

    class Many(Count):
        def action_space(self, agent):
            return MultiDiscrete([9, 9])

    with pytest.raises(UnsupportedTask, match="81 combinations, more than 64"):
        team(Many)


def test_continuous_actions_and_unreadable_observations_are_refused_by_name_with_a_remedy():
    class Continuous(Count):
        def action_space(self, agent):
            return Box(0, 1, (5,), np.float32)

    with pytest.raises(UnsupportedTask) as caught:
        team(Continuous, discrete_remedy="Use --env.continuous-actions false, or wrap it.")
    assert str(caught.value) == (
        "a has Box(0.0, 1.0, (5,)); VDN and QMIX need Discrete actions. Use --env.continuous-actions false, or wrap it."
    )

    class Odd(Count):
        def observation_space(self, agent):
            return MultiDiscrete([3, 3])

    with pytest.raises(UnsupportedTask, match=r"a observes MultiDiscrete\(\[3 3\]\)"):
        team(Odd)


def paid(*rewards: Any):
    class Paid(Count):
        def step(self, actions):
            obs, _, terminations, truncations, infos = super().step(actions)
            return obs, dict(zip(self.possible_agents, rewards, strict=True)), terminations, truncations, infos

    return Paid


def test_different_rewards_are_refused_until_the_person_says_how_the_team_is_paid():
    with pytest.raises(UnsupportedTask) as caught:
        play(team(paid(1, -1.5)), STAY)
    assert str(caught.value) == "rewards differ between agents (a +1, b -1.5): not a cooperative task. --team-reward sum forces it."
    for mode, total in (("sum", -0.5), ("mean", -0.25)):
        env = team(paid(1, -1.5), team_reward=mode)
        assert env.spec.team_reward == mode
        step, _ = play(env, STAY)[0]
        assert step.reward.item() == total
        assert step.agent_reward.tolist() == [[1.0, -1.5]]
    assert play(team(paid(2.0, 2.0 + 1e-9)), STAY)[0][0].reward.item() == 2.0


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), "much"])
def test_a_reward_that_is_no_number_is_named_with_agent_and_step(bad):
    with pytest.raises(ContractBroken, match="the reward of b at step 1"):
        play(team(paid(1.0, bad), team_reward="sum"), STAY)


@pytest.mark.parametrize(
    ("seen", "rule"),
    [
        (np.array([0.0, np.nan, 0.0], dtype=np.float32), "observation-finite"),
        (np.zeros(4, dtype=np.float32), "observation-shape"),
        (None, "observation-missing"),
    ],
)
def test_an_unsound_observation_is_named_with_agent_and_step(seen, rule):
    class Unsound(Count):
        def see(self, agent):
            return seen if agent == "b" and self.t == 2 else super().see(agent)

    with pytest.raises(ContractBroken, match=r"b .*at step 2|b at step 2") as caught:
        play(team(Unsound), STAY)
    assert caught.value.rule == rule


def test_an_unknown_agent_and_one_that_outstays_its_end_are_named():
    class Stranger(Count):
        def everything(self):
            obs, infos = super().everything()
            return {**obs, "c": self.see("a")} if self.t else obs, infos

    with pytest.raises(ContractBroken, match="'c' at step 1 is not one of possible_agents"):
        play(team(Stranger), STAY)

    class Stays(Count):
        def step(self, actions):
            result = super().step(actions)
            self.agents = list(self.possible_agents)
            return result

    with pytest.raises(ContractBroken, match=r"a is done at step 4 but still in env\.agents"):
        play(team(Stays), STAY)


class WithState(Count):
    """A global state that is gone once the episode is over."""

    ends_by_termination = True

    def state(self):
        if not self.agents:
            raise AttributeError("the world is gone")
        return np.array([[self.t, 7.0]], dtype=np.float64)

    def step(self, actions):
        obs, rewards, terminations, truncations, infos = super().step(actions)
        flags = (truncations, terminations) if self.ends_by_termination else (terminations, truncations)
        return obs, rewards, *flags, infos


def test_state_is_taken_from_the_environment_and_after_termination_the_one_before_may_stand_in():
    env = team(WithState)
    assert env.spec.state_dim == 2
    seen = play(env, STAY[:4])
    assert [step.after.state.tolist() for step, _ in seen] == [[[1, 7]], [[2, 7]], [[3, 7]], [[3, 7]]]


def test_a_state_that_is_gone_after_truncation_is_an_error_because_targets_bootstrap_from_it():
    class Cut(WithState):
        ends_by_termination = False

    with pytest.raises(ContractBroken, match=r"state\(\) fails at step 4"):
        play(team(Cut), STAY)


def test_without_a_state_the_padded_observations_stand_side_by_side():
    after = play(team(Count), [[1, 0]])[0][0].after
    assert after.state.tolist() == after.obs.flatten(1).tolist()


def test_every_episode_has_its_own_seed_from_copy_seed_and_episode_number():
    class Forgetful(Count):
        """A second reset without a seed would go on with the old generator."""

    env = team(Forgetful)
    seeds = torch.tensor([11, 12, 11])
    state, view = env.reset(seeds)
    lucks = [view.obs[:, 0, 1]]
    for _ in range(12):
        state, step, view = env.step(state, torch.zeros(3, 2, dtype=torch.int64))
        if step.truncated.all():
            lucks.append(view.obs[:, 0, 1])
    assert all(luck[0] == luck[2] for luck in lucks)
    assert len({float(luck[0]) for luck in lucks}) == 4
    assert float(lucks[0][0]) != float(lucks[0][1])


def test_a_copy_that_is_done_stays_as_it_ended_without_automatic_reset():
    *_, (end, _), (later, view), (latest, _) = play(team(Count), STAY)
    assert latest.reward.item() == later.reward.item() == 0.0
    assert later.truncated.item()
    assert torch.equal(later.after.obs, end.after.obs)
    assert torch.equal(view.obs, end.after.obs)


def test_a_frozen_array_that_an_environment_hands_out_again_does_not_change_old_views():
    class SameArray(Count):
        def see(self, agent):
            self.buffer = getattr(self, "buffer", {})
            row = self.buffer.setdefault(agent, np.zeros(3, dtype=np.float32))
            row[:] = super().see(agent)
            return row

    seen = play(team(SameArray), STAY[:3])
    assert [step.after.obs[0, 0, 0].item() for step, _ in seen] == [1.0, 2.0, 3.0]


def test_selected_copies_have_the_same_future_and_move_apart_from_the_original():
    env = team(Count)
    state, _ = env.reset(torch.tensor([1, 2]))
    state, _, _ = env.step(state, torch.tensor([[1, 0], [0, 1]]))
    forks = env.select(state, torch.tensor([1, 1, 0]))
    _, moved, _ = env.step(forks, torch.tensor([[0, 0], [1, 1], [0, 0]]))
    _, plain, _ = env.step(state, torch.tensor([[0, 0], [0, 0]]))
    assert torch.equal(moved.after.obs[0], plain.after.obs[1])
    assert torch.equal(moved.after.obs[2], plain.after.obs[0])
    assert moved.after.obs[1, :, 2].tolist() == [1.0, 2.0]
    assert len({lease.slot for lease in (*forks.leases, *state.leases)}) == 5


def test_one_handle_may_be_stepped_twice_because_the_second_step_replays():
    env = team(Count)
    state, _ = env.reset(torch.tensor([1]))
    state, _, _ = env.step(state, torch.tensor([[1, 1]]))
    _, first, _ = env.step(state, torch.tensor([[0, 1]]))
    _, second, _ = env.step(state, torch.tensor([[1, 0]]))
    assert first.after.obs[0, :, 2].tolist() == [1.0, 2.0]
    assert second.after.obs[0, :, 2].tolist() == [2.0, 1.0]


def test_a_saved_state_loads_in_another_process_like_adapter_with_the_same_future():
    state, _ = team(Count).reset(torch.tensor([5, 6]))
    first, second = team(Count), team(Count)
    state, _ = first.reset(torch.tensor([5, 6]))
    for t in range(6):  # into the second episode
        state, _, _ = first.step(state, torch.tensor([[t % 2, 1], [0, 1]]))
    saved = first.dump(state)
    loaded = second.load(Saved(tensors={name: tensor.clone() for name, tensor in saved.tensors.items()}, meta=dict(saved.meta)))
    action = torch.tensor([[1, 1], [1, 0]])
    for _ in range(4):
        state, here, _ = first.step(state, action)
        loaded, there, _ = second.step(loaded, action)
        assert torch.equal(here.after.obs, there.after.obs)
        assert torch.equal(here.truncated, there.truncated)


def test_a_task_that_draws_on_more_than_its_seed_refuses_to_be_copied_with_the_reason():
    draws = iter(range(100))

    class Moody(Count):
        def step(self, actions):
            self.luck = float(next(draws))
            return super().step(actions)

    env = team(Moody)
    state, _ = env.reset(torch.tensor([1]))
    state, _, _ = env.step(state, torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match="cannot be copied exactly: replaying episode 0 of copy seed 1 to step 1, the observations differ"):
        env.select(state, torch.tensor([0]))


def test_repeated_resets_reuse_environments_and_two_live_handles_never_share_one():
    class Counted(Count):
        made = 0

    env = team(Counted)
    for seed in range(5):
        state, _ = env.reset(torch.arange(3) + seed)
        env.step(state, torch.zeros(3, 2, dtype=torch.int64))
        del state
    gc.collect()
    assert Counted.made == 3
    one, _ = env.reset(torch.arange(3))
    other, _ = env.reset(torch.arange(3))
    assert Counted.made == 6
    assert not {lease.slot for lease in one.leases} & {lease.slot for lease in other.leases}


class Remembering(Count):
    """What was drawn in earlier episodes adds up."""

    total = 0.0

    def reset(self, seed=None, options=None):
        super().reset(seed)
        self.total += 1
        self.luck += self.total
        return self.everything()


@pytest.mark.parametrize("reuse", [True, False])
def test_a_task_that_remembers_is_made_anew_for_every_episode_with_reuse_false(reuse):
    env = team(Remembering, reuse=reuse)
    lucks = []
    for _ in range(3):
        state, view = env.reset(torch.tensor([1]))
        for _ in range(4):
            state, _, after = env.step(state, torch.zeros(1, 2, dtype=torch.int64))
        lucks.append((view.obs[0, 0, 1].item(), after.obs[0, 0, 1].item()))
        del state
    assert (len(set(lucks)) == 1) is not reuse


def test_close_closes_each_environment_once():
    env = team(Count)
    state, _ = env.reset(torch.arange(2))
    made = [env.live(state, row) for row in range(2)]
    env.close()
    env.close()
    assert [one.closed for one in made] == [1, 1]
