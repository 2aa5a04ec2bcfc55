"""The replay: a ring that forgets the oldest, epochs that miss nothing, windows that stay whole."""

import dataclasses

import pytest
import torch
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import NetworkConfig, ReplayConfig
from teamcredit.marl.data import Rollout, replace_extras
from teamcredit.marl.replay import Layout, Replay, human_bytes

AGENTS, OBS, STATE, ACTIONS = 2, 3, 4, 5


def rollout(steps: int, copies: int, first: int = 0, *, dtype: torch.dtype = torch.float32) -> Rollout:
    """Random steps whose reward is their own number: (first + t) * copies + copy."""
    generator = torch.Generator().manual_seed(first)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(steps, copies, *shape, generator=generator)

    def obs() -> torch.Tensor:
        return (255 * rand(AGENTS, OBS)).to(dtype)

    return Rollout(
        obs=obs(), state=rand(STATE), available=rand(AGENTS, ACTIONS) < 0.5, alive=rand(AGENTS) < 0.5,
        action=(ACTIONS * rand(AGENTS)).long(), behaviour=rand(AGENTS),
        reward=(torch.arange(first, first + steps).unsqueeze(1) * copies + torch.arange(copies)).float(),
        agent_reward=rand(AGENTS), terminated=rand() < 0.1, truncated=rand() < 0.1, episode_start=rand() < 0.1,
        valid=torch.ones(steps, copies, dtype=torch.bool), policy_version=torch.full((steps, copies), first),
        actor=torch.zeros(steps, copies, dtype=torch.int64), next_obs=obs(), next_state=rand(STATE),
        next_available=rand(AGENTS, ACTIONS) < 0.5, next_alive=rand(AGENTS) < 0.5,
    )  # fmt: skip


def filled(config: ReplayConfig, rounds: int = 1) -> Replay:
    replay = Replay(config, rollout(1, 1))
    for index in range(rounds):
        replay.add(rollout(config.rollout_steps, config.num_envs, index * config.rollout_steps))
    return replay


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("window, burn_in", [(1, 0), (4, 0), (4, 3), (8, 8)])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_one_epoch_learns_from_every_fresh_step_exactly_once(window, burn_in, rounds):
    config = ReplayConfig(rollout_steps=16, num_envs=3, minibatch_size=16, window=window, burn_in=burn_in)
    replay = filled(config, rounds)
    fresh = set(range((rounds - 1) * 48, rounds * 48))
    for epoch in range(2):
        minibatches = [minibatch for minibatch, _ in replay.split(generator(epoch))]
        seen = [number for minibatch in minibatches for number in minibatch.steps.reward[burn_in:].flatten().tolist()]
        assert len(seen) == 48
        assert set(seen) == fresh
        for minibatch in minibatches:  # windows are consecutive steps of one copy
            assert minibatch.steps.num_steps == burn_in + window
            assert (minibatch.steps.reward[burn_in:].diff(dim=0) == 3).all()


def test_two_epochs_shuffle_differently_and_one_generator_state_shuffles_alike():
    replay = filled(ReplayConfig(rollout_steps=16, minibatch_size=4))
    first, again, other = ([m.steps.reward.flatten().tolist() for m, _ in replay.split(generator(seed))] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("size, iterations", [(32, 4), (64, 2), (128, 1), ("full", 1)])
def test_a_batch_of_128_gives_that_many_iterations(size, iterations):
    assert len(list(filled(ReplayConfig(minibatch_size=size)).split(generator()))) == iterations


@pytest.mark.parametrize("last, sizes", [("keep", [16, 16, 8]), ("drop", [16, 16]), ("merge", [16, 24])])
def test_the_last_short_minibatch_is_kept_dropped_or_merged(last, sizes):
    replay = filled(ReplayConfig(rollout_steps=40, minibatch_size=16, window=2, last_minibatch=last))
    found = [minibatch.steps.reward.numel() for minibatch, _ in replay.split(generator())]
    assert found == sizes


def test_the_last_short_minibatch_is_refused_by_default():
    with pytest.raises(ValueError, match="16 does not divide the batch of 40"):
        ReplayConfig(rollout_steps=40, minibatch_size=16)


def test_prepared_numbers_travel_with_their_steps():
    replay = filled(ReplayConfig(rollout_steps=16, num_envs=3, minibatch_size=16, window=4), rounds=2)
    for minibatch, part in replay.split(generator(), {"ten": 10 * replay.newest().reward.unsqueeze(-1)}):
        assert torch.equal(part["ten"].squeeze(-1), 10 * minibatch.steps.reward)


def test_the_oldest_steps_are_overwritten_and_windows_never_cross_the_seam():
    config = ReplayConfig(rollout_steps=4, num_envs=2, sampling="uniform", capacity=20, minibatch_size=6, window=3)
    replay = filled(config, rounds=6)  # 24 steps of each copy through 10 slots
    assert replay.stored == 20
    seen = set()
    for seed in range(200):
        reward = replay.uniform(generator(seed)).steps.reward
        assert (reward.diff(dim=0) == 2).all()
        seen |= set(reward.flatten().tolist())
    assert seen == set(range(2 * 14, 2 * 24))


def test_before_the_ring_is_full_only_stored_steps_are_drawn():
    replay = filled(ReplayConfig(rollout_steps=4, sampling="uniform", capacity=100, minibatch_size=4))
    assert replay.stored == 4
    assert {number for seed in range(50) for number in replay.uniform(generator(seed)).steps.reward.flatten().tolist()} == {0, 1, 2, 3}


def test_a_uniform_draw_takes_every_start_equally_often():
    config = ReplayConfig(rollout_steps=4, num_envs=3, sampling="uniform", capacity=30, minibatch_size=30, window=3)
    replay, moving = filled(config, rounds=4), generator()
    starts = torch.cat([replay.uniform(moving).steps.reward[0] for _ in range(1000)]).long()
    counts = torch.bincount(starts - starts.min())
    assert len(counts) == 8 * 3
    expected = 10_000 / 24
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 49.7  # the 99.9% point at 23 degrees of freedom


def test_a_window_longer_than_what_is_stored_or_too_few_steps_cannot_be_sampled():
    config = ReplayConfig(rollout_steps=2, sampling="uniform", capacity=100, minibatch_size=8, window=4)
    replay = Replay(config, rollout(1, 1))
    possible = []
    for first in range(0, 10, 2):
        replay.add(rollout(2, 1, first))
        possible.append(replay.can_sample())
    assert possible == [False, False, False, True, True]


def test_burn_in_steps_that_were_never_stored_are_padding_and_the_memory_restarts_after_them():
    config = ReplayConfig(rollout_steps=8, minibatch_size=4, window=4, burn_in=3)
    replay = filled(config)
    first = replay.gather((torch.tensor([0, 4]), torch.tensor([0, 0])), window=4, burn_in=3).steps
    assert first.valid[:, 0].tolist() == [False] * 3 + [True] * 4
    assert first.valid[:, 1].all()
    assert first.episode_start[3, 0]
    assert first.reward[:, 1].tolist() == [1, 2, 3, 4, 5, 6, 7]
    torch.manual_seed(0)
    net = UtilityNetwork(NetworkConfig(kind="gru", hidden=8), num_agents=AGENTS, obs_dim=OBS, num_actions=ACTIONS)
    rebuilt, _ = net.unroll(first.obs[:, :1], first.episode_start[:, :1], burn_in=3)
    fresh, _ = net.unroll(first.obs[3:, :1], first.episode_start[3:, :1])
    torch.testing.assert_close(rebuilt, fresh)


def test_split_keeps_the_burn_in_of_the_round_before():
    replay = filled(ReplayConfig(rollout_steps=8, minibatch_size=8, window=4, burn_in=3), rounds=2)
    ((minibatch, _),) = replay.split(generator())
    assert minibatch.steps.valid.all()
    assert sorted(minibatch.steps.reward[0].tolist()) == [5, 9]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_dumped_replay_comes_back_and_goes_on_alike(dtype, rounds):
    config = ReplayConfig(rollout_steps=4, num_envs=2, sampling="uniform", capacity=20, minibatch_size=6, window=3)

    def fresh() -> Replay:
        return Replay(config, rollout(1, 1, dtype=dtype))

    replay = fresh()
    for index in range(rounds):
        replay.add(rollout(4, 2, 4 * index, dtype=dtype))
    tensors, meta = replay.dump()
    assert len(tensors["floats"]) == min(4 * rounds, 10)  # not the empty rest of the ring
    back = fresh()
    back.restore(tensors, meta)
    for each in (replay, back):
        each.add(rollout(4, 2, 100, dtype=dtype))
    first, second = (each.uniform(generator()).steps for each in (replay, back))
    for name in ("obs", "reward", "action", "next_state"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_the_footprint_is_the_memory_the_ring_takes():
    for dtype in (torch.float32, torch.uint8):
        config = ReplayConfig(sampling="uniform", capacity=1000, num_envs=2)
        replay = Replay(config, rollout(1, 1, dtype=dtype))
        assert replay.footprint == replay.floats.nbytes + replay.raw.nbytes
        assert replay.slots == 500


def test_a_replay_that_does_not_fit_is_refused_with_the_numbers_before_anything_is_allocated(monkeypatch):
    example = rollout(1, 1)
    config = ReplayConfig(sampling="uniform", capacity=10**9)
    per_step = Layout(example).bytes_per_step
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: pytest.fail("allocated"))
    with pytest.raises(ValueError, match=r"lower replay\.capacity") as caught:
        Replay(config, example, memory_limit=10**9)
    for number in (
        human_bytes(per_step * 10**9),
        "1,000,000,000 joint transitions",
        f"{per_step:,} bytes",
        "1.0 GB",
        f"{10**9 // 2 // per_step:,}",
    ):
        assert number in str(caught.value)
    with pytest.raises(ValueError, match=r"lower replay\.rollout_steps or replay\.num_envs"):
        Replay(ReplayConfig(), example, memory_limit=10)


def test_bytes_are_stored_raw():
    layout = Layout(rollout(1, 1, dtype=torch.uint8))
    assert [item.name for item in layout.bytes.fields] == ["obs", "next_obs"]
    assert layout.byte_width == 2 * AGENTS * OBS


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_packing_and_unpacking_gives_back_every_field_and_extra(dtype):
    before = replace_extras(
        rollout(5, 3, dtype=dtype),
        option=torch.randint(9, (5, 3, AGENTS)),
        age=torch.rand(5, 3),
        picture=torch.randint(256, (5, 3, 2, 2), dtype=torch.uint8),
    )
    layout = Layout(before)
    after = layout.unpack(*layout.pack(before))
    assert after.extras.keys() == before.extras.keys()
    pairs = [(getattr(before, item.name), getattr(after, item.name)) for item in dataclasses.fields(Rollout) if item.name != "extras"]
    for old, new in pairs + [(before.extras[name], after.extras[name]) for name in before.extras]:
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        assert torch.equal(old, new)
