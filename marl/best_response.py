"""A policy trained for one agent beside its teammates as they are: what it could earn, approximately.

    kappa_i ~ argmax_kappa J(kappa_i, pi_-i)

An independent Q-learner (iql) with the task's own preset. The teammates follow the team's frozen policies, planted members theirs, so the
learner faces a task that does not change. Short training finds a lower bound: a response that is no better excludes little.
"""

from collections.abc import Callable

import torch

from ..envs.base import TeamEnv
from .config import Config
from .errors import ConfigError
from .policies import Override, Policy, StandIn, Team
from .run import Run, configure
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
        config: how it learns; default: iql with the preset that the task brings.
        seed: of the training.
        announce: takes a line for people.

    Raises:
        ConfigError: teammates with a memory, which collecting does not carry for others.
    """
    env, team = (run.env, run.team) if isinstance(run, Run) else run
    refuse_memory(team)
    settings = (response_config(run, steps, seed) if isinstance(run, Run) else None) if config is None else config
    if settings is None:
        settings = Config(task=env.spec.name, algo="iql", steps=steps, seed=seed, compile="off")
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


def response_config(run: Run, steps: int, seed: int) -> Config:
    """The run's task, with its options, learned by iql."""
    mine = run.config
    options = {"task": mine.task, "algo": "iql", "steps": steps, "seed": seed, "compile": "off"}
    options |= {f"env.{name}": value for name, value in mine.env.items()}
    options |= {name: value for name, value in (("team_reward", mine.team_reward), ("time_limit", mine.time_limit)) if value is not None}
    return configure(options=options, environ={}).config
