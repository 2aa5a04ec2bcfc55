"""The trainer: counters, how many iterations, target networks, and that nothing is left to chance."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from teamcredit.envs.registry import make
from teamcredit.marl.config import Config, EvaluationConfig, ExplorationConfig, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.errors import CheckpointIncompatible, ConfigError
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.tally import RewardScale
from teamcredit.marl.trainer import Trainer

SMALL = NetworkConfig(hidden=8)


def trainer(task: str = "native/two-step", algo: str = "vdn", *, replay: dict[str, Any] | None = None, **top: Any) -> Trainer:
    config = Config(task, **{"algo": algo, "steps": 10_000, "network": SMALL, "replay": ReplayConfig(**(replay or {})), **top})
    return Trainer(config, make(task))


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_round_of_128_steps_is_four_iterations_of_32_and_one_epoch():
    run = trainer()
    run.round()
    counters = dataclasses.asdict(run.counters)
    assert counters == {"env_steps": 128, "episodes": 64, "rounds": 1, "iterations": 4, "epochs": 1, "owed": 0.0}


@pytest.mark.parametrize("task, agents", [("native/two-step", 2), ("native/foraging-8x8-4p-3f", 4)])
def test_env_steps_are_never_multiplied_by_agents(task, agents):
    run = trainer(task, replay={"rollout_steps": 8, "num_envs": 3, "minibatch_size": "full"})
    run.round()
    run.round()
    assert run.env.spec.num_agents == agents
    assert run.counters.env_steps == 2 * 8 * 3


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_epoch_passes_over_the_whole_batch(epochs):
    run = trainer(replay={"rollout_steps": 16, "minibatch_size": 4, "epochs": epochs})
    run.round()
    assert (run.counters.epochs, run.counters.iterations) == (epochs, 4 * epochs)


def iterations_after(rounds: int, **replay: Any) -> list[int]:
    run = trainer(replay={"sampling": "uniform", "rollout_steps": 8, "minibatch_size": 8, **replay})
    counts = []
    for _ in range(rounds):
        run.round()
        counts.append(run.counters.iterations)
    return counts


@pytest.mark.parametrize("num_envs", [1, 2, 4])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_replay_ratio_holds_however_many_copies_collect(num_envs, ratio):
    """Joint steps learned from / collected: EPyMARL's falls silently as copies are added."""
    counts = iterations_after(4, num_envs=num_envs, replay_ratio=ratio)
    assert counts[-1] * 8 == ratio * 4 * 8 * num_envs


def test_iterations_that_do_not_divide_are_owed_and_made_later():
    assert iterations_after(6, replay_ratio=0.7) == [0, 1, 2, 2, 3, 4]
    assert iterations_after(4, minibatch_size=16) == [0, 1, 1, 2]


def test_windows_count_their_joint_steps_in_the_replay_ratio():
    assert iterations_after(2, window=4) == [1, 2]


def test_no_iteration_before_learning_starts_and_none_is_owed_for_that_time():
    assert iterations_after(4, learning_starts=17) == [0, 0, 1, 2]


def test_two_identical_trainers_end_with_identical_weights_and_another_seed_does_not():
    ends = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(ends))  # the global generator plays no part
        before = torch.get_rng_state()
        run = trainer("native/spread", "qmix", seed=seed, replay={"rollout_steps": 16, "minibatch_size": 8})
        run.round()
        run.round()
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(weights(run.networks))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_hard_targets_are_copied_every_so_many_iterations():
    run = trainer(learner=LearnerConfig(target_every=8))
    first = weights(run.networks)
    run.round()
    assert same(weights(run.targets), first)
    run.round()
    assert same(weights(run.targets), weights(run.networks))
    assert not same(weights(run.targets), first)


def test_soft_targets_move_by_tau_each_iteration():
    run = trainer(learner=LearnerConfig(target="soft", target_tau=0.25), replay={"minibatch_size": "full"})
    old = weights(run.targets)
    run.round()
    expected = [0.75 * slow + 0.25 * fast for slow, fast in zip(old, weights(run.networks), strict=True)]
    torch.testing.assert_close(weights(run.targets), expected)


def test_without_target_networks_the_targets_are_the_live_network():
    run = trainer(learner=LearnerConfig(target="none"))
    assert run.targets is run.networks
    run.round()
    assert not any(name.startswith("targets") for name in run.dump().groups["training"])


def test_gradients_are_clipped_by_their_norm(monkeypatch):
    steps = []
    for clip in (1e9, 1e-3):
        run = trainer(learner=LearnerConfig(grad_clip=clip), replay={"minibatch_size": "full"})

        def record(run: Trainer = run) -> None:
            steps.append(torch.cat([parameter.grad.flatten() for parameter in run.parameters["agents"]]))

        monkeypatch.setattr(run.optimisers["agents"], "step", record)
        run.round()
        assert run.metrics()["grad_norm"] == pytest.approx(float(steps[0].norm()), rel=1e-5)  # shown as it was before clipping
    free, clipped = steps
    assert free.norm() > 1e-3
    assert float(clipped.norm()) == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())


def test_the_learning_rate_falls_linearly_from_the_first_round_on():
    run = trainer(steps=512, learner=LearnerConfig(lr=1e-3, lr_decay="linear"))
    used = []
    while not run.finished:
        run.round()
        used.append(run.optimisers["agents"].param_groups[0]["lr"])
    assert used == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_epsilon_is_that_of_the_env_steps_done_before_the_round():
    run = trainer("native/foraging-8x8-2p-3f", steps=128, exploration=ExplorationConfig(start=0.0, end=1.0, fraction=1.0))
    run.round()
    assert (run.replay.newest().behaviour == 1).all()  # epsilon was 0
    assert run.epsilon == 1.0


def test_the_reward_scale_is_the_standard_deviation_of_all_rewards_so_far():
    scale, rewards = RewardScale(), 7 + 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert scale.scale == 1.0
    for row in rewards:
        scale.update(row)
    assert scale.scale == pytest.approx(float(rewards.std(correction=0)))
    constant = RewardScale()
    constant.update(torch.full((10,), 3.0))
    assert constant.scale == 1.0


def test_a_standardised_runs_metrics_are_in_raw_reward_units():
    run = trainer(learner=LearnerConfig(gamma=0.0, standardise_rewards=True), replay={"minibatch_size": "full"})
    before = copy.deepcopy(run.networks)
    run.round()
    steps, line, scale = run.replay.newest(), run.metrics(), run.reward_scale.scale
    assert scale > 1.5
    with torch.no_grad():
        q, _ = before["utility"](steps.obs, steps.obs[..., :0])
    value = scale * q.gather(-1, steps.action.unsqueeze(-1)).squeeze(-1).sum(-1)
    assert line["target"] == pytest.approx(float(steps.reward.mean()), rel=1e-5)
    assert line["value"] == pytest.approx(float(value.mean()), rel=1e-4)
    assert line["td_error"] == pytest.approx(float((steps.reward - value).abs().mean()), rel=1e-4)
    assert line["loss"] == pytest.approx(float((steps.reward - value).square().mean()), rel=1e-4)


def test_a_line_of_metrics_counts_what_happened_since_the_last_one():
    run = trainer()
    run.round()
    first, empty = run.metrics(), run.metrics()
    assert first["return"] == pytest.approx(float(run.replay.newest().reward.sum()) / 64)
    assert first["episode_length"] == 2
    assert (empty["return"], empty["loss"], empty["env_steps"]) == (None, None, 128)


def test_evaluating_changes_nothing_in_training():
    ends = []
    for evaluate in (False, True):
        run = trainer("native/foraging-8x8-2p-3f", replay={"rollout_steps": 16, "minibatch_size": 8})
        run.round()
        if evaluate:
            run.evaluate(3)
        run.round()
        ends.append(weights(run.networks))
    assert same(*ends)


def test_the_episodes_that_pick_the_best_checkpoint_are_not_those_it_is_evaluated_on(monkeypatch):
    asked = []
    monkeypatch.setattr("teamcredit.marl.trainer.play", lambda env, team, seeds: asked.extend(seeds.tolist()) or play(env, team, seeds))
    trainer().evaluate(8)
    assert len(asked) == 8
    assert not set(asked) & set(seeds_from(EVALUATION_SEEDS, 100_000).tolist())


def test_a_checkpoint_of_other_networks_is_refused_by_name():
    content = trainer(algo="qmix").dump()
    with pytest.raises(CheckpointIncompatible, match="mixer"):
        trainer(algo="vdn").restore(content)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"algo": "qmax"}, "iql, vdn, qmix"),
        ({"members": ("agent_9=noop",)}, 'no agent "agent_9"'),
        ({"members": ("agent_0",)}, "write NAME=POLICY"),
        ({"members": ("agent_0=lazy",)}, 'no policy "lazy"'),
        ({"members": ("agent_0=noop",)}, "has no action that does nothing"),
    ],
)
def test_a_trainer_that_cannot_be_made_says_why(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        trainer(**change)


def test_an_unknown_algorithm_is_a_config_error():
    with pytest.raises(ConfigError):
        trainer(algo="comma", evaluation=EvaluationConfig())
