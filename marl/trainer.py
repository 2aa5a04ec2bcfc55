"""Training: rounds of collecting and learning, the paper's loop, with all its state in one object that can be saved.

for each round:  collect T steps in B copies -> add to the replay -> for each minibatch: one iteration -> track targets
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..envs.base import Saved, TeamEnv, View
from ..envs.randomness import Clock, copy_seeds, mix_seed
from .agent_reward import make_agent_reward, newest_rewards
from .capture import COMPILED, EAGER, NO_COMPILER, Choice, decide
from .checkpoint import Content, check_agents, flatten, unflatten
from .config import Config
from .cures import Treatment, exploring, first_boost, refuse_cure, treated_team
from .data import Minibatch
from .engine import CaptureFailed, Engine
from .errors import CheckpointIncompatible, ConfigError, suggest
from .evaluate import PROGRESS_SEEDS, Episodes, Evaluation, play, seeds_from, summarise
from .exploration import epsilon_at
from .learners import ALGORITHMS
from .learners.base import AGENTS, Context, Learner, Loss
from .memory import example_rollout
from .optimisers import dump_optimiser, make_optimiser, restore_optimiser
from .policies import Override, Scripted, Team, parse_members
from .probes import make_probes
from .redistribution import redistribution_of, report, with_raw_reward
from .replay import Replay, refuse_oversize
from .rollout import Carry, begin
from .rollout_async import collector
from .tally import Counters, RewardScale, Sums


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

    def __init__(
        self,
        config: Config,
        env: TeamEnv,
        *,
        announce: Callable[[str], None] | None = None,
        replay: Replay | None = None,
        members: tuple[Override, ...] | None = None,
    ):
        """`replay`: an empty one to use instead of a new one; `members`: those who act and do not learn, instead of the configuration's."""
        self.config, self.env = config, env
        if replay is None:
            refuse_oversize(config.replay, env.spec)
        self.learner = make_learner(config, env)
        self.networks = self.learner.make_networks(mix_seed(config.seed, 1))
        self.targets = self.networks if config.learner.target == "none" else copy.deepcopy(self.networks)
        self.parameters = {part: _parameters(self.networks, names) for part, names in self.learner.parts.items()}
        rates = {part: config.learner.lr if part == AGENTS else config.critic_lr for part in self.parameters}
        self.optimisers = {part: make_optimiser(config.learner, own, lr=rates[part]) for part, own in self.parameters.items()}
        planted: dict[str, str] = {}
        if members is None:
            members, planted = parse_members(config.members, env.spec, scripted_policies(env))
        utility: Any = self.networks["utility"]
        team = Team(utility=utility, members=members, planted=planted, sampled=config.acts == "sampled")
        probes = make_probes(config.exploration, env.spec, team.learns(env.spec.num_agents))
        self.team = replace(team, probes=probes, pay=make_agent_reward(config, env))
        refuse_cure(config, env)
        self.treatments: tuple[Treatment, ...] = ()
        cures = config.watch.on_lazy == "intervene" and config.watch.cure == "counterfactual"
        self._difference = make_agent_reward(config, env, "difference") if cures else None
        self.counters, self.reward_scale, self.sums = Counters(), RewardScale(), Sums()
        self.generator = torch.Generator().manual_seed(mix_seed(config.seed, 2))
        self.fresh_actions = torch.Generator().manual_seed(mix_seed(config.seed, 4))
        self.carry: Carry = begin(env, self.team, copy_seeds(mix_seed(config.seed, 3), config.replay.num_envs))
        self.redistribution = redistribution_of(config, env.spec)
        example = example_rollout(env.spec)
        if self.redistribution is not None:
            example = with_raw_reward(example)
        self.replay: Replay = replay or Replay(config.replay, example, state_is_obs=env.spec.state_is_obs, announce=announce)
        self.announce = announce or (lambda text: None)
        self.choice = decide(config, env)
        if self.choice.reason == NO_COMPILER:
            self.announce(f"compile     off: {NO_COMPILER}")
        self._engine: Engine | None = None

    @property
    def epsilon(self) -> float:
        return epsilon_at(self.config.exploration, self.counters.env_steps, self.config.steps)

    @property
    def finished(self) -> bool:
        return self.counters.env_steps >= self.config.steps

    def round(self) -> None:
        """Collect one batch, then learn from it or from the replay."""
        rates = {part: self._rate(part) for part in self.optimisers}  # like epsilon, by the env steps done before the round
        for part, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rates[part]
        context = Context(epsilon=self.epsilon, generator=self.fresh_actions)
        engine = self._captured()
        if engine is not None and engine.collects:
            self.carry = engine.collect(self.carry, epsilon=self.epsilon, version=self.counters.iterations)
            self._collected(newest_rewards(self.config, self.replay))
        else:
            self._collect()
        if engine is not None:
            self._learn_captured(engine, rates)
        else:
            self._learn(replace(context, scale=self.reward_scale.scale))

    def _collect(self) -> None:
        """Collect one batch as it stands in Python."""
        rollout, self.carry, ended = collector(self.env)(
            self.env, self.carry, self._treated_team(), epsilon=self._exploring(), steps=self.config.replay.rollout_steps,
            policy_version=self.counters.iterations, explore=self.learner.explore,
        )  # fmt: skip
        if self.redistribution is None:
            self.replay.add(rollout)
            rewards = newest_rewards(self.config, self.replay)
        else:
            self.replay.add(self.redistribution.enter(rollout))
            rewards, sums = self.redistribution.settle(self.replay)
            self.sums.add(**sums)
        self._collected(rewards)
        self.counters.episodes += len(ended.returns)
        self.sums.add(episodes=len(ended.returns), returns=float(ended.returns.sum()), lengths=float(ended.lengths.sum()))

    def _exploring(self) -> float | Tensor:
        own = first_boost(self.config)
        return exploring(self.treatments, self.epsilon, self.counters.env_steps, self.env.spec.num_agents, own)

    def _treated_team(self) -> Team:
        """The team as it collects, with what treated agents are paid now."""
        return treated_team(self.config, self.team, self.treatments, self.counters.env_steps, self._difference)

    def _collected(self, reward: Tensor) -> None:
        """Count a fresh batch; `reward`: the rewards that are new to learning."""
        if self.config.learner.standardise_rewards and reward.numel():
            self.reward_scale.update(reward)
        self.counters.env_steps += self.config.replay.batch
        self.counters.rounds += 1

    def _captured(self) -> Engine | None:
        """The captured loop, compiled at the first round; None where this run goes without."""
        if self.choice.engine != EAGER and self._engine is None:
            collects = self.choice.engine == COMPILED
            engine = Engine(
                self.config, self.env, self.team, self.learner, self.networks, self.targets, self.optimisers, self.replay,
                collects=collects,
            )  # fmt: skip
            what = "collecting and learning" if collects else "learning"
            self.announce(f"compiling   {what} ({self.choice.reason}): half a minute the first time, then seconds")
            try:
                engine.warm_up(self.carry, self.announce)
            except CaptureFailed as failed:
                self.choice = Choice(EAGER, f"compiling failed ({failed})")
                self.announce(f"compile     failed, so the run goes on without it: {failed}")
            else:
                self._engine = engine
        return self._engine

    def _learn_captured(self, engine: Engine, rates: dict[str, float]) -> None:
        """`_learn` through the captured loop; sums stay on the device until `settle`."""
        replay, numbers = self.config.replay, {"scale": self.reward_scale.scale, "rates": rates}
        if replay.sampling == "split":
            planned = engine.plan(self.reward_scale.scale)
            for _ in range(replay.epochs):
                for windows, own in self.replay.split_windows(self.generator, planned):
                    engine.iterate(windows, own, **numbers)
                    self._iterated()
                self.counters.epochs += 1
        else:
            for _ in range(self._iterations_due()):
                engine.iterate(self.replay.uniform_windows(self.generator), {}, **numbers)
                self._iterated()

    def settle(self) -> None:
        """Bring what the captured loop has summed up into the counters and sums."""
        if self._engine is not None:
            self._take_in(*self._engine.settle())

    def _take_in(self, sums: dict[str, float], ended: tuple[float, float, float]) -> None:
        """Sums by name, and the number, returns and lengths of the episodes that ended."""
        episodes, returns, lengths = ended
        self.counters.episodes += int(episodes)
        self.sums.add(episodes=episodes, returns=returns, lengths=lengths, **sums)

    @property
    def decay(self) -> float:
        """What is left of the learning rates."""
        left = 1 - min(self.counters.env_steps / max(self.config.steps, 1), 1.0)
        return left if self.config.learner.lr_decay == "linear" else 1.0

    def _rate(self, part: str) -> float:
        """A part's learning rate now."""
        return (self.config.learner.lr if part == AGENTS else self.config.critic_lr) * self.decay

    def _learn(self, context: Context) -> None:
        """The iterations of a round, one operation after the other."""
        replay = self.config.replay
        if replay.sampling == "uniform":
            for _ in range(self._iterations_due()):
                self._iterate(self.replay.uniform(self.generator), {}, context)
            return
        planned = self.learner.plan(self.networks, self.targets, self.replay.newest(), context)
        for _ in range(replay.epochs):
            for minibatch, own in self.replay.split(self.generator, planned):
                self._iterate(minibatch, own, context)
            self.counters.epochs += 1

    def _iterations_due(self) -> int:
        """Iterations to make after this round so that the replay ratio holds (sampling uniform)."""
        replay = self.config.replay
        assert isinstance(replay.minibatch_size, int)
        if self.counters.env_steps < replay.learning_starts or not (self.redistribution is None or self.redistribution.knows_rewards):
            return 0
        self.counters.owed += replay.replay_ratio * replay.batch / replay.minibatch_size
        if not self.replay.can_sample():
            return 0
        iterations = math.floor(self.counters.owed)
        self.counters.owed -= iterations
        return iterations

    def _iterate(self, minibatch: Minibatch, planned: dict[str, Tensor], context: Context) -> None:
        """One gradient step of every part, then the target networks."""
        losses = self.learner.losses(self.networks, self.targets, minibatch, planned=planned, context=context)
        norms = {part: self._descend(part, loss) for part, loss in losses.items()}
        if self.config.learner.target == "soft":
            with torch.no_grad():
                for slow, fast in zip(self.targets.parameters(), self.networks.parameters(), strict=True):
                    slow.lerp_(fast, self.config.learner.target_tau)
        self._iterated()
        for part, loss in losses.items():
            self._count(part, loss, norms[part], self.reward_scale.scale)

    def _iterated(self) -> None:
        """Count an iteration, and copy the networks to their targets where that is due."""
        learner = self.config.learner
        self.counters.iterations += 1
        self.sums.add(iterations=1)
        if learner.target == "hard" and self.counters.iterations % learner.target_every == 0:
            self.targets.load_state_dict(self.networks.state_dict())

    def _descend(self, part: str, loss: Loss) -> Tensor:
        """One optimiser step on the mean loss; the gradient's norm before clipping."""
        optimiser = self.optimisers[part]
        optimiser.zero_grad(set_to_none=True)
        (loss.total / loss.weight.clamp(min=1)).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters[part], self.config.learner.grad_clip)
        optimiser.step()
        return norm

    def _count(self, part: str, loss: Loss, norm: Tensor, scale: float) -> None:
        """Into the sums; the agents' under plain names, another part's with its own in front."""
        prefix = "" if part == AGENTS else f"{part}."
        names = list(loss.metrics)
        numbers = torch.stack([loss.total.detach(), loss.weight, norm, *(loss.metrics[name] for name in names)]).tolist()
        self.sums.add(
            **{f"{prefix}loss": numbers[0] * scale**loss.reward_power, f"{prefix}weight": numbers[1], f"{prefix}grad_norm": numbers[2]}
        )
        self.sums.add(**{f"{prefix}metric.{name}": value for name, value in zip(names, numbers[3:], strict=True)})

    def metrics(self) -> dict[str, Any]:
        """One line of metrics over what happened since the last call; starts the sums anew."""
        self.settle()
        sums, episodes = self.sums, self.sums.get("episodes")
        line: dict[str, Any] = {
            **{name: value for name, value in asdict(self.counters).items() if name != "owed"},
            "epsilon": self.epsilon,
            "lr": self.config.learner.lr * self.decay,
            "return": sums.get("returns") / episodes if episodes else None,
            "episode_length": sums.get("lengths") / episodes if episodes else None,
        }
        for part in self.learner.parts:
            line |= self._learning(part)
        if self.redistribution is not None:
            line |= report(sums.values)
        self.sums = Sums()
        return self.learner.report(line)

    def _learning(self, part: str) -> dict[str, Any]:
        """One part's loss, gradient norm and metrics, averaged."""
        sums, prefix = self.sums, "" if part == AGENTS else f"{part}."
        weight, iterations = max(sums.get(f"{prefix}weight"), 1.0), sums.get("iterations")
        line: dict[str, Any] = {
            f"{prefix}loss": sums.get(f"{prefix}loss") / weight if iterations else None,
            f"{prefix}grad_norm": sums.get(f"{prefix}grad_norm") / iterations if iterations else None,
        }
        start = f"{prefix}metric."
        return line | {prefix + name.removeprefix(start): value / weight for name, value in sums.values.items() if name.startswith(start)}

    def evaluate(self, episodes: int) -> Evaluation:
        """Evaluation of the team as it stands, on the same episodes each time."""
        return summarise(self.play(episodes), self.env.spec.agents)

    def play(self, episodes: int) -> Episodes:
        """The episodes of an evaluation."""
        return play(self.env, self.team, seeds_from(PROGRESS_SEEDS, episodes))

    def dump(self) -> Content:
        """Everything a later process needs to go on as if nothing had happened."""
        self.settle()
        carry, env_state = self.carry, self.env.dump(self.carry.state)
        optimisers = {part: dump_optimiser(optimiser) for part, optimiser in self.optimisers.items()}
        stored, ring = self.replay.dump()
        training = flatten("env", env_state.tensors) | flatten("view", _tensors(carry.view))
        for part, (moments, _) in optimisers.items():
            training |= flatten(f"optimiser.{part}", moments)
        training |= flatten("clock", _tensors(carry.clock)) | flatten("memory", carry.memory)
        training |= {"episode_return": carry.episode_return, "agent_return": carry.agent_return, "episode_start": carry.episode_start}
        training |= {"generator": self.generator.get_state(), "fresh_actions": self.fresh_actions.get_state()}
        if self.targets is not self.networks:
            training |= flatten("targets", self.targets.state_dict())
        meta = {
            "counters": asdict(self.counters), "reward_scale": asdict(self.reward_scale), "sums": self.sums.values,
            "env": env_state.meta, "replay": ring, "engine": asdict(self.choice),
            "optimiser": {part: meta for part, (_, meta) in optimisers.items()}, "agents": list(self.env.spec.agents),
            "treatments": [asdict(treatment) for treatment in self.treatments],
        }  # fmt: skip
        if self.redistribution is not None:
            learned, episodes, meta["redistribution"] = self.redistribution.dump()
            training, stored = training | learned, stored | episodes
        return Content(meta=meta, groups={"networks": self.networks.state_dict(), "training": training, "replay": stored})

    def restore(self, content: Content) -> None:
        """Back to a dumped state; raises CheckpointIncompatible when it is of another configuration."""
        training, meta = content.groups["training"], content.meta
        check_agents(meta["agents"], self.env.spec.agents, self.env.spec.name)
        load_networks(self.networks, content)
        if self.targets is not self.networks:
            self.targets.load_state_dict(unflatten(training, "targets"))
        for part, optimiser in self.optimisers.items():
            restore_optimiser(optimiser, unflatten(training, f"optimiser.{part}"), meta["optimiser"][part])
        self.treatments = tuple(Treatment(**each) for each in meta.get("treatments", []))
        self.counters, self.reward_scale = Counters(**meta["counters"]), RewardScale(**meta["reward_scale"])
        self.sums, self._engine, self.choice = Sums(dict(meta["sums"])), None, Choice(**meta["engine"])
        self.generator.set_state(training["generator"])
        self.fresh_actions.set_state(training["fresh_actions"])
        self.replay.restore(content.groups["replay"], meta["replay"])
        if self.redistribution is not None:
            self.redistribution.restore(training, content.groups["replay"], meta["redistribution"])
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


def _parameters(networks: nn.ModuleDict, names: tuple[str, ...]) -> list[nn.Parameter]:
    return [parameter for name in names for parameter in networks[name].parameters()]


def _tensors(value: View | Clock) -> dict[str, Tensor]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
