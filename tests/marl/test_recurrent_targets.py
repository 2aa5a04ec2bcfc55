"""Targets of recurrent agents, against a loop that plays every window step by step.

What must be right at once: the memory rebuilt over the burn-in, reset at episode starts and carried to the view reached; the
double choice; dead agents; and returns that stop at ends and at the window's last step.
"""

import pytest
import torch
from teamcredit.envs.registry import make
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.data import Rollout
from teamcredit.marl.trainer import Trainer
from torch import Tensor, nn

GAMMA, LAMBDA, SCALE, HIDDEN, BURN_IN = 0.9, 0.6, 2.0, 8, 3


def trained(*, target: str, double: bool) -> Trainer:
    """Three rounds on short episodes, through a ring that has forgotten the first; the target networks are moved far from the live ones."""
    config = Config(
        "foraging",
        algo="qmix",
        members=("agent_1=random",),
        steps=1000,
        network=NetworkConfig(kind="gru", hidden=HIDDEN),
        learner=LearnerConfig(gamma=GAMMA, td_lambda=LAMBDA, target=target, double=double),
        replay=ReplayConfig(
            sampling="uniform",
            rollout_steps=32,
            num_envs=3,
            minibatch_size=96,
            window=8,
            burn_in=BURN_IN,
            capacity=40 * 3,
            replay_ratio=0.1,
        ),
    )
    trainer = Trainer(config, make("native/foraging-5x5-3p-1f", episode_limit=12, max_food_level=1))
    for _ in range(3):
        trainer.round()
    if target != "none":
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in trainer.targets.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trainer


def played(networks: nn.ModuleDict, steps: Rollout, copy: int) -> tuple[list[Tensor], list[Tensor]]:
    """Utilities of the view acted on and of the view reached, step by step; episodes and real steps begin without a memory."""
    memory = fresh = torch.zeros(1, steps.alive.shape[2], HIDDEN)
    here, reached = [], []
    for t in range(steps.num_steps):
        if steps.episode_start[t, copy] or (t > 0 and not steps.valid[t - 1, copy]):
            memory = fresh
        q, memory = networks["utility"](steps.obs[t, copy].unsqueeze(0), memory)
        here.append(q[0])
        reached.append(networks["utility"](steps.next_obs[t, copy].unsqueeze(0), memory)[0][0])
    return here, reached


def slow_loss(trainer: Trainer, steps: Rollout) -> float:
    live, target, total = trainer.networks, trainer.targets, 0.0
    for copy in range(steps.reward.shape[1]):
        (here, choosing), (_, valuing) = played(live, steps, copy), played(target, steps, copy)
        following = torch.zeros(())
        for t in range(steps.num_steps - 1, BURN_IN - 1, -1):
            chooser = choosing[t] if trainer.config.learner.double else valuing[t]
            best = chooser.masked_fill(~steps.next_available[t, copy], -1e9).argmax(-1, keepdim=True)
            next_q = valuing[t].gather(-1, best).squeeze(-1) * steps.next_alive[t, copy]
            value = target["mixer"](next_q, steps.next_state[t, copy])
            if steps.truncated[t, copy] or t == steps.num_steps - 1:
                following = value
            after = (1 - LAMBDA) * value + LAMBDA * following
            following = steps.reward[t, copy] / SCALE + GAMMA * (0 if steps.terminated[t, copy] else after)
            q = here[t].gather(-1, steps.action[t, copy].unsqueeze(-1)).squeeze(-1) * steps.alive[t, copy]
            total += float((live["mixer"](q, steps.state[t, copy]) - following) ** 2)
    return total


@pytest.mark.parametrize("target, double", [("hard", True), ("hard", False), ("none", True)])
def test_the_loss_of_recurrent_agents_is_that_of_a_loop_over_single_steps(target, double):
    trainer = trained(target=target, double=double)
    starts = torch.arange(0, trainer.replay.count - 7, 3)
    windows = starts.repeat_interleave(3), torch.arange(3).repeat(len(starts))
    minibatch = trainer.replay.gather(windows, window=8, burn_in=BURN_IN)
    steps = minibatch.steps
    assert not steps.valid.all()  # before the oldest step stored there is none
    assert steps.terminated[BURN_IN:].any()
    assert steps.truncated[BURN_IN:].any()
    assert steps.episode_start[BURN_IN + 1 :].any()
    with torch.no_grad():
        loss = trainer.learner.loss(trainer.networks, trainer.targets, minibatch, target=None, scale=SCALE)
        assert float(loss.total) == pytest.approx(slow_loss(trainer, steps), rel=1e-4)
