"""Training: rounds of collecting and learning, the paper's loop, with all its state in one object that can be saved.

for each round:  collect T steps in B copies -> add to the replay -> for each minibatch: one iteration -> track targets
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..envs.base import Saved, TeamEnv, View
from ..envs.randomness import Clock, copy_seeds, mix_seed
from .checkpoint import Content, flatten, unflatten
from .config import Config
from .data import Minibatch, Rollout
from .errors import CheckpointIncompatible, ConfigError, suggest
from .evaluate import PROGRESS_SEEDS, Evaluation, play, seeds_from, summarise
from .exploration import epsilon_at
from .learners import ALGORITHMS
from .learners.base import Learner
from .optimisers import dump_optimiser, make_optimiser, restore_optimiser
from .policies import Scripted, Team, parse_members
from .replay import Replay
from .rollout import Carry, begin, collect


@dataclass
class Counters:
    """How far the run is. All count from the run's start."""

    env_steps: int = 0
    """Joint actions applied, over all copies; never multiplied by agents."""
    episodes: int = 0
    rounds: int = 0
    iterations: int = 0
    epochs: int = 0
    owed: float = 0.0
    """Iterations owed to the replay ratio but not yet made (sampling uniform)."""


@dataclass
class RewardScale:
    """Running standard deviation of the team reward (Welford's sums), which divides rewards while learning.

    Only the scale is taken out: subtracting a mean would change which policy is best where episodes differ in length.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, reward: Tensor) -> None:
        """Take in a fresh batch of real rewards (Chan's parallel update)."""
        values = reward.to(torch.float64)
        number, mean = float(values.numel()), float(values.mean())
        squares = float((values - mean).square().sum())
        delta, total = mean - self.mean, self.count + number
        self.squares += squares + delta * delta * self.count * number / total
        self.mean += delta * number / total
        self.count = total

    @property
    def scale(self) -> float:
        """The standard deviation; 1 until rewards differ."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-8 else 1.0


@dataclass
class Sums:
    """Running sums since the last line of metrics."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float | int) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value

    def get(self, name: str) -> float:
        return self.values.get(name, 0.0)


def make_learner(config: Config, env: TeamEnv) -> Learner:
    """The learner the algorithm's name stands for."""
    if config.algo not in ALGORITHMS:
        hint = suggest(config.algo, ALGORITHMS)
        raise ConfigError(f'no algorithm "{config.algo}".{hint} There are: {", ".join(ALGORITHMS)}', remedy="marl algos list")
    path, mixer, _ = ALGORITHMS[config.algo]
    module, cls = path.split(":")
    return getattr(import_module(f".learners.{module}", __package__), cls)(config, env.spec, mixer)


def scripted_policies(env: TeamEnv) -> dict[str, Scripted]:
    """The task's own scripted policies by name."""
    return getattr(env, "scripted", {})


class Trainer:
    """All the state of a run in training; `round` moves it, `dump` and `restore` save and bring it back exactly."""

    def __init__(self, config: Config, env: TeamEnv, *, announce: Callable[[str], None] | None = None):
        self.config, self.env = config, env
        self.learner = make_learner(config, env)
        self.networks = self.learner.make_networks(mix_seed(config.seed, 1))
        self.targets = self.networks if config.learner.target == "none" else copy.deepcopy(self.networks)
        self.parameters = list(self.networks.parameters())
        self.optimiser = make_optimiser(config.learner, self.parameters)
        members, planted = parse_members(config.members, env.spec, scripted_policies(env))
        utility: Any = self.networks["utility"]
        self.team = Team(utility=utility, members=members, planted=planted)
        self.counters, self.reward_scale, self.sums = Counters(), RewardScale(), Sums()
        self.generator = torch.Generator().manual_seed(mix_seed(config.seed, 2))
        self.carry: Carry = begin(env, self.team, copy_seeds(mix_seed(config.seed, 3), config.replay.num_envs))
        self.replay: Replay = Replay(config.replay, _example(self.carry, env), announce=announce)

    @property
    def epsilon(self) -> float:
        return epsilon_at(self.config.exploration, self.counters.env_steps, self.config.steps)

    @property
    def finished(self) -> bool:
        return self.counters.env_steps >= self.config.steps

    def round(self) -> None:
        """Collect one batch, then learn from it or from the replay."""
        replay = self.config.replay
        for group in self.optimiser.param_groups:  # like epsilon, by the env steps done before the round
            group["lr"] = self.learning_rate
        rollout, self.carry, ended = collect(
            self.env, self.carry, self.team, epsilon=self.epsilon, steps=replay.rollout_steps, policy_version=self.counters.iterations
        )
        self.replay.add(rollout)
        if self.config.learner.standardise_rewards:
            self.reward_scale.update(rollout.reward[rollout.valid])
        self.counters.env_steps += replay.batch
        self.counters.rounds += 1
        self.counters.episodes += len(ended.returns)
        self.sums.add(episodes=len(ended.returns), returns=float(ended.returns.sum()), lengths=float(ended.lengths.sum()))
        if replay.sampling == "split":
            self._learn_split()
        else:
            self._learn_uniform()

    @property
    def learning_rate(self) -> float:
        learner = self.config.learner
        left = 1 - min(self.counters.env_steps / max(self.config.steps, 1), 1.0) if learner.lr_decay == "linear" else 1.0
        return learner.lr * left

    def _learn_split(self) -> None:
        scale = self.reward_scale.scale
        target = self.learner.prepare(self.networks, self.targets, self.replay.newest(), scale)
        for _ in range(self.config.replay.epochs):
            for minibatch, part in self.replay.split(self.generator, target):
                self._iterate(minibatch, part, scale)
            self.counters.epochs += 1

    def _learn_uniform(self) -> None:
        replay = self.config.replay
        assert isinstance(replay.minibatch_size, int)
        if self.counters.env_steps < replay.learning_starts:
            return
        self.counters.owed += replay.replay_ratio * replay.batch / replay.minibatch_size
        if not self.replay.can_sample():
            return
        iterations = math.floor(self.counters.owed)
        self.counters.owed -= iterations
        for _ in range(iterations):
            self._iterate(self.replay.uniform(self.generator), None, self.reward_scale.scale)

    def _iterate(self, minibatch: Minibatch, target: Tensor | None, scale: float) -> None:
        """One gradient step, then the target networks."""
        learner = self.config.learner
        loss = self.learner.loss(self.networks, self.targets, minibatch, target=target, scale=scale)
        self.optimiser.zero_grad(set_to_none=True)
        (loss.total / loss.weight.clamp(min=1)).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, learner.grad_clip)
        self.optimiser.step()
        self.counters.iterations += 1
        if learner.target == "hard" and self.counters.iterations % learner.target_every == 0:
            self.targets.load_state_dict(self.networks.state_dict())
        elif learner.target == "soft":
            with torch.no_grad():
                for slow, fast in zip(self.targets.parameters(), self.parameters, strict=True):
                    slow.lerp_(fast, learner.target_tau)
        names = list(loss.metrics)
        numbers = torch.stack([loss.total.detach(), loss.weight, norm, *(loss.metrics[name] for name in names)]).tolist()
        self.sums.add(iterations=1, loss=numbers[0] * scale * scale, weight=numbers[1], grad_norm=numbers[2])
        self.sums.add(**{f"metric.{name}": value for name, value in zip(names, numbers[3:], strict=True)})

    def metrics(self) -> dict[str, Any]:
        """One line of metrics over what happened since the last call; starts the sums anew."""
        sums, episodes = self.sums, self.sums.get("episodes")
        weight, iterations = max(sums.get("weight"), 1.0), max(sums.get("iterations"), 1.0)
        learned = sums.get("iterations") > 0
        line: dict[str, Any] = {
            **{name: value for name, value in asdict(self.counters).items() if name != "owed"},
            "epsilon": self.epsilon,
            "lr": self.learning_rate,
            "return": sums.get("returns") / episodes if episodes else None,
            "episode_length": sums.get("lengths") / episodes if episodes else None,
            "loss": sums.get("loss") / weight if learned else None,
            "grad_norm": sums.get("grad_norm") / iterations if learned else None,
        }
        line |= {name.removeprefix("metric."): value / weight for name, value in sums.values.items() if name.startswith("metric.")}
        self.sums = Sums()
        return line

    def evaluate(self, episodes: int) -> Evaluation:
        """Greedy evaluation of the team as it stands, on the same episodes each time."""
        return summarise(play(self.env, self.team, seeds_from(PROGRESS_SEEDS, episodes)), self.env.spec.agents)

    def dump(self) -> Content:
        """Everything a later process needs to go on as if nothing had happened."""
        carry, env_state = self.carry, self.env.dump(self.carry.state)
        moments, optimiser = dump_optimiser(self.optimiser)
        stored, ring = self.replay.dump()
        training = flatten("optimiser", moments) | flatten("env", env_state.tensors) | flatten("view", _tensors(carry.view))
        training |= flatten("clock", _tensors(carry.clock)) | flatten("memory", carry.memory)
        training |= {"episode_return": carry.episode_return, "agent_return": carry.agent_return, "episode_start": carry.episode_start}
        training |= {"generator": self.generator.get_state()}
        if self.targets is not self.networks:
            training |= flatten("targets", self.targets.state_dict())
        meta = {
            "counters": asdict(self.counters), "reward_scale": asdict(self.reward_scale), "sums": self.sums.values,
            "env": env_state.meta, "optimiser": optimiser, "replay": ring, "agents": list(self.env.spec.agents),
        }  # fmt: skip
        return Content(meta=meta, groups={"networks": self.networks.state_dict(), "training": training, "replay": stored})

    def restore(self, content: Content) -> None:
        """Back to a dumped state; raises CheckpointIncompatible when it is of another configuration."""
        training, meta = content.groups["training"], content.meta
        load_networks(self.networks, content)
        if self.targets is not self.networks:
            self.targets.load_state_dict(unflatten(training, "targets"))
        restore_optimiser(self.optimiser, unflatten(training, "optimiser"), meta["optimiser"])
        self.counters, self.reward_scale = Counters(**meta["counters"]), RewardScale(**meta["reward_scale"])
        self.sums = Sums(dict(meta["sums"]))
        self.generator.set_state(training["generator"])
        self.replay.restore(content.groups["replay"], meta["replay"])
        self.carry = Carry(
            state=load_env(self.env, Saved(unflatten(training, "env"), meta["env"])),
            view=View(**unflatten(training, "view")),
            memory=unflatten(training, "memory"),
            clock=Clock(**unflatten(training, "clock")),
            episode_return=training["episode_return"],
            agent_return=training["agent_return"],
            episode_start=training["episode_start"],
        )


def load_env(env: TeamEnv, saved: Saved) -> Any:
    """The environment's state; CheckpointIncompatible for a task that cannot come back to where it was."""
    try:
        return env.load(saved)
    except ValueError as error:
        raise CheckpointIncompatible(
            str(error), remedy="the task draws on more than its seed, so its runs cannot be resumed: marl envs check names the broken rule"
        ) from error


def load_networks(networks: nn.ModuleDict, content: Content) -> None:
    """Weights from a checkpoint; CheckpointIncompatible names what does not fit."""
    expected, found = networks.state_dict(), content.groups["networks"]
    wrong = sorted(expected.keys() ^ found.keys()) or [name for name in expected if expected[name].shape != found[name].shape]
    if wrong:
        raise CheckpointIncompatible(f"the checkpoint's networks do not fit this configuration: {', '.join(wrong[:3])}")
    networks.load_state_dict(found)


def _tensors(value: View | Clock) -> dict[str, Tensor]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _example(carry: Carry, env: TeamEnv) -> Rollout:
    """One step of one copy, for the replay's layout."""
    view = carry.view
    one = torch.zeros(1, 1)
    flag, agent = one > 0, torch.zeros(1, 1, env.spec.num_agents)
    obs, state = view.obs[:1].unsqueeze(0), view.state[:1].unsqueeze(0)
    available, alive = view.available[:1].unsqueeze(0), view.alive[:1].unsqueeze(0)
    return Rollout(
        obs=obs, state=state, available=available, alive=alive, action=agent.to(torch.int64), behaviour=agent, reward=one,
        agent_reward=agent, terminated=flag, truncated=flag, episode_start=flag, valid=flag, policy_version=one.to(torch.int64),
        actor=one.to(torch.int64), next_obs=obs, next_state=state, next_available=available, next_alive=alive,
    )  # fmt: skip
