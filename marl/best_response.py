"""A policy trained for one agent beside its teammates as they are: what it could earn, approximately.

    kappa_i ~ argmax_kappa J(kappa_i, pi_-i)

An independent Q-learner (iql) that learns from replay. The teammates follow the team's frozen policies, planted members theirs, so the
learner faces a task that does not change. Short training finds a lower bound: a response that is no better excludes little.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from ..envs.base import TeamEnv
from .config import Config, CriticConfig, EvaluationConfig, ExplorationConfig, LearnerConfig, ReplayConfig
from .errors import ConfigError
from .policies import Override, Policy, StandIn, Team
from .run import Run
from .trainer import Trainer


def train_best_response(
    run: "Run | tuple[TeamEnv, Team]",
    agent: int,
    steps: int,
    *,
    config: Config | None = None,
    seed: int = 0,
    announce: Callable[[str], None] | None = None,
) -> tuple[Policy, int]:
    """A stand-in for the agent, and the env steps it was trained for (whole rounds: at least `steps`).

    Args:
        run: a run, or a task and its team.
        agent: which one learns.
        steps: env steps of training.
        config: how it learns; default: `response_config`.
        seed: of the training.
        announce: takes a line for people.

    Raises:
        ConfigError: teammates with a memory, which collecting does not carry for others.
    """
    env, team = (run.env, run.team) if isinstance(run, Run) else run
    refuse_memory(team)
    mine = run.config if isinstance(run, Run) else None
    settings = response_config(env.spec.name, steps, seed, mine) if config is None else config
    others = Override(StandIn(team), torch.arange(env.spec.num_agents) != agent)
    trainer = Trainer(settings, env, members=(others,))
    if announce is not None:
        announce(f"training a best response of {env.spec.agents[agent]} for {steps:,} env steps")
    while not trainer.finished:
        trainer.round()
    return StandIn(Team(utility=trainer.team.utility)), trainer.counters.env_steps


def refuse_memory(team: Team) -> None:
    """ConfigError for a recurrent team."""
    if team.utility.initial_memory(1).shape[-1]:
        raise ConfigError(
            "a best response is trained beside memoryless teammates, and these are recurrent (network.kind gru)",
            remedy="leave --best-response out; teammates' policies and older checkpoints are tried all the same",
        )


def response_config(task: str, steps: int, seed: int, run: Config | None = None) -> Config:
    """iql from replay, sparing with env steps: settings for some thousand of them, whatever the task.

    Of the run's own configuration remain the task's options, the network's width and the discount.
    """
    base = Config(task=task) if run is None else run
    return replace(
        base,
        algo="iql",
        steps=steps,
        seed=seed,
        members=(),
        compile="off",
        network=replace(base.network, kind="mlp"),
        critic=CriticConfig(kind="none"),
        learner=LearnerConfig(gamma=base.learner.gamma, td_lambda=0.8, target="soft", target_tau=0.01, lr=1e-3, standardise_rewards=True),
        exploration=ExplorationConfig(start=1.0, end=0.05, fraction=0.5),
        replay=ReplayConfig(
            sampling="uniform", rollout_steps=16, num_envs=8, minibatch_size=256, window=8, replay_ratio=8.0, capacity=50_000
        ),
        evaluation=EvaluationConfig(),
    )
