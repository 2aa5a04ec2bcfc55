"""A verdict of `marl lazy` checked by hand: plain means of returns over many independent episodes, nothing paired, nothing sequential.

    v(C)     mean return when the agents in C act and the others follow the reference, over episodes of its own
    effect   v(N) - v(N-i), standard error sqrt(s^2 / n + s'^2 / n'); Shapley value: the plain sum over all orders of joining
    room     mean return with a candidate in i's place - v(N)

Of the detector nothing is used: from the package come the task and the run's networks; the loop over an episode, the choice
of actions, the random numbers, the replacements and the statistics are written again here, as naively as possible. Candidates are the
teammates' networks, older checkpoints, random, and the task's scripted policies, which `marl lazy` does not try by itself. For greedy
teams without planted members.

    python scripts/check_verdict.py runs/foraging-vdn-s0 agent_1 --margin 0.25
    python scripts/check_verdict.py runs/foraging-vdn-s0 agent_1 --show 3
"""

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from teamcredit.envs.base import TeamEnv, View
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.checkpoint import list_checkpoints, step_of
from teamcredit.marl.errors import UserError
from teamcredit.marl.run import Run, load
from torch import Tensor

FIRST_SEED = 2_000_000_000  # far from every block of seeds that training, evaluation and verdicts use
Act = Callable[[View, int], Tensor]
"""(view, agent) -> that agent's action in every copy."""


@dataclass(frozen=True)
class Played:
    """Many episodes of one line-up, in figures."""

    mean: float
    error: float
    """Standard error of the mean."""
    length: float
    """Mean env steps of an episode."""
    cut: float
    """Share of episodes that a limit cut."""


def greedy_action(network: UtilityNetwork, view: View, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The team's own actions: of those available, the one of highest utility."""
    utility, memory = network(view.obs, memory)
    return torch.where(view.available, utility, torch.full_like(utility, -math.inf)).argmax(-1), memory


def play_many(env: TeamEnv, network: UtilityNetwork, replaced: dict[int, Act], first_seed: int, episodes: int, batch: int) -> Played:
    """Mean return of `episodes` episodes from `first_seed` on, with some agents replaced."""
    returns, lengths, cuts = [], [], []
    for start in range(first_seed, first_seed + episodes, batch):
        seeds = torch.arange(start, min(start + batch, first_seed + episodes))
        state, view = env.reset(seeds)
        memory = network.initial_memory(len(seeds))
        total, length = torch.zeros(len(seeds), dtype=torch.float64), torch.zeros(len(seeds), dtype=torch.float64)
        over, cut = torch.zeros(len(seeds), dtype=torch.bool), torch.zeros(len(seeds), dtype=torch.bool)
        while not bool(over.all()):
            action, memory = greedy_action(network, view, memory)
            for agent, act in replaced.items():
                action[:, agent] = act(view, agent)
            state, step, view = env.step(state, action, autoreset=False)
            total += torch.where(over, 0.0, step.reward.double())
            length += (~over).double()
            cut |= ~over & step.truncated
            over = over | step.terminated | step.truncated
        returns.append(total)
        lengths.append(length)
        cuts.append(cut)
    total = torch.cat(returns)
    error = float(total.std()) / math.sqrt(len(total))
    return Played(float(total.mean()), error, float(torch.cat(lengths).mean()), float(torch.cat(cuts).double().mean()))


def noop(env: TeamEnv) -> Act:
    """Doing nothing; SystemExit where an agent has no such action, or may not take it."""
    actions = [action for action in env.spec.noop or () if action is not None]
    if len(actions) < env.spec.num_agents:
        raise SystemExit(f"{env.spec.name} has no action that does nothing, or not for every agent: --references random")

    def act(view: View, agent: int) -> Tensor:
        action = actions[agent]
        if not bool(view.available[view.alive[:, agent], agent, action].all()):
            raise SystemExit(f"the action of {env.spec.agents[agent]} that does nothing is not always available: --references random")
        return torch.full((len(view.alive),), action)

    return act


def random(seed: int) -> Act:
    generator = torch.Generator().manual_seed(seed)
    return lambda view, agent: torch.multinomial(view.available[:, agent].double(), 1, generator=generator).squeeze(-1)


def network_of(network: UtilityNetwork, slot: int | None = None) -> Act:
    """Another network in the agent's place, from the agent's own observation: its own slot's or that of teammate `slot`."""

    def act(view: View, agent: int) -> Tensor:
        here, obs = agent if slot is None else slot, view.obs.clone()
        obs[:, here] = view.obs[:, agent]
        utility = network(obs, network.initial_memory(len(obs)))[0][:, here]
        available = view.available[:, agent]
        return torch.where(available, utility, torch.full_like(utility, -math.inf)).argmax(-1)

    return act


def scripted(policy: Callable[[Tensor, Tensor], Tensor]) -> Act:
    return lambda view, agent: policy(view.obs[:, agent : agent + 1], view.available[:, agent : agent + 1]).squeeze(-1)


def reference(name: str, run: Run, seed: int) -> Act:
    """noop, random (each time with numbers of its own) or peer:AGENT."""
    if name.startswith("peer:"):
        return network_of(run.networks["utility"], run.env.spec.agents.index(name.removeprefix("peer:")))
    return noop(run.env) if name == "noop" else random(seed)


def candidates_of(run: Run, agent: int) -> dict[str, Act]:
    """Who is tried in the agent's place."""
    env, network = run.env, run.networks["utility"]
    found: dict[str, Act] = {f"network of {name}": network_of(network, k) for k, name in enumerate(env.spec.agents) if k != agent}
    for path in list_checkpoints(run.folder / "checkpoints"):
        if 0 < step_of(path) < run.env_steps:
            found[f"itself at {step_of(path):,}"] = network_of(load(f"{run.folder}@{step_of(path)}").networks["utility"])
    found |= {f"scripted {name}": scripted(policy) for name, policy in getattr(env, "scripted", {}).items()}
    return found


def shapley_value(values: dict[frozenset[int], float], agent: int, agents: int) -> float:
    """Mean over all orders of joining of what `agent` adds."""
    added = []
    for order in itertools.permutations(range(agents)):
        before = frozenset(order[: order.index(agent)])
        added.append(values[before | {agent}] - values[before])
    return sum(added) / len(added)


def beside(value: float, error: float, margin: float) -> str:
    """Where an effect lies, by 1.96 standard errors."""
    if value - 1.96 * error > margin:
        return "above"
    return "below" if value + 1.96 * error < margin else "too near to tell"


def class_by_hand(against: dict[str, tuple[float, float, str]], share: str, substitute: bool, room: str) -> str:
    """The class in a word, from (effect, its error, where it lies beside the margin) per reference, and where share and room lie."""
    harm = [effect + 1.96 * error < 0 for name, (effect, error, _) in against.items() if name == "noop" or "noop" not in against]
    if all(harm):
        return "harmful"
    places = [place for *_, place in against.values()]
    if "above" in places:
        return "contributing (guard if it hardly acts)"
    if "too near to tell" in places:
        return "cannot be told with so many episodes"
    if share == "above" or substitute:
        return "redundant"
    return {"above": "lazy", "below": "not needed (by those tried)"}.get(room, "cannot be told with so many episodes")


def check(run: Run, agent: int, margin: float, references: Sequence[str], episodes: int, batch: int) -> list[str]:
    """All lines, for people."""
    env, network, number = run.env, run.networks["utility"], itertools.count()
    names, n = env.spec.agents, env.spec.num_agents
    everyone = frozenset(range(n))

    def played(replaced: dict[int, Act]) -> Played:
        return play_many(env, network, replaced, FIRST_SEED + next(number) * episodes, episodes, batch)

    team = played({})
    lines = [
        f"{run.config.task}, {run.name} at {run.env_steps:,} env steps; {names[agent]}; {episodes:,} independent episodes each",
        f"the team as it is: {describe(team)}",
    ]
    against: dict[str, tuple[float, float, str]] = {}
    shares, substitutes, largest = [], [], 0.0
    for name in references:
        table = {everyone: team}
        for size in range(n):
            for chosen in itertools.combinations(range(n), size):
                act = reference(name, run, next(number))
                table[frozenset(chosen)] = played({k: act for k in range(n) if k not in chosen})
        gain = team.mean - table[frozenset()].mean
        least = margin * gain / n
        largest = max(largest, least)
        without = table[everyone - {agent}]
        effect, error = team.mean - without.mean, math.hypot(team.error, without.error)
        place = beside(effect, error, least)
        against[name] = (effect, error, place)
        phi = shapley_value({chosen: one.mean for chosen, one in table.items()}, agent, n)
        shares.append("above" if phi >= least else "below")
        lines.append(f'"{name}" for all: {describe(table[frozenset()])}; gain {gain:.4f}, margin {margin:g} of an equal share {least:.4f}')
        lines.append(f'"{name}" for {names[agent]}: {describe(without)}')
        lines.append(f"    effect {effect:+.4f} +- {error:.4f}: {place} the margin ({effect / least:+.2f} of it)")
        lines.append(f"    Shapley value {phi:+.4f} ({phi / least:+.2f} margins)")
        for mate in sorted(everyone - {agent}):
            there, neither = table[everyone - {mate}], table[everyone - {mate, agent}]
            alone, alone_error = there.mean - neither.mean, math.hypot(there.error, neither.error)
            more = effect - alone
            stands = more + 1.96 * math.hypot(error, alone_error) < 0 and -more >= least and alone >= least
            substitutes.append(stands)
            lines.append(f"    without {names[mate]} its effect is {alone:+.4f} +- {alone_error:.4f}{': a substitute' if stands else ''}")
    best = -math.inf, ""
    for name, act in {**candidates_of(run, agent), "random": random(next(number))}.items():
        other = played({agent: act})
        room, error = other.mean - team.mean, math.hypot(team.error, other.error)
        place = beside(room, error, largest)
        best = max(best, (room, place))
        lines.append(f"{name} in its place: {describe(other)}; the team gains {room:+.4f} +- {error:.4f}: {place} {largest:.4f}")
    word = class_by_hand(against, "above" if "above" in shares else "below", any(substitutes), best[1])
    return [*lines, f"by hand: {names[agent]} is {word}"]


def describe(played: Played) -> str:
    return f"{played.mean:.4f} +- {played.error:.4f} ({played.length:.1f} steps, {played.cut:.0%} cut by the limit)"


def episode_in_words(env: TeamEnv, network: UtilityNetwork, seed: int, replaced: dict[int, Act]) -> list[str]:
    """What each agent does in one episode, and when the team is paid."""
    state, view = env.reset(torch.tensor([seed]))
    memory = network.initial_memory(1)
    actions: list[list[str]] = [[] for _ in env.spec.agents]
    paid, done = [], False
    while not done:
        action, memory = greedy_action(network, view, memory)
        for agent, act in replaced.items():
            action[:, agent] = act(view, agent)
        for agent, number in enumerate(action[0].tolist()):
            actions[agent].append(env.spec.action_names[agent][number] if env.spec.action_names else str(number))
        state, step, view = env.step(state, action, autoreset=False)
        paid.append(float(step.reward))
        done = bool(step.terminated | step.truncated)
    rewards = ", ".join(f"{reward:+.3f} at step {k}" for k, reward in enumerate(paid) if reward)
    lines = [f"  episode {seed}: return {sum(paid):.3f} in {len(paid)} steps" + (f"; {rewards}" if rewards.count("at") <= 8 else "")]
    return lines + [f"    {name}: {in_runs(actions[agent])}" for agent, name in enumerate(env.spec.agents)]


def in_runs(words: Sequence[Any]) -> str:
    """ "a a b" as "a x2, b"."""
    groups = [(word, len(list(same))) for word, same in itertools.groupby(words)]
    return ", ".join(f"{word} x{count}" if count > 1 else str(word) for word, count in groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder or a run's name")
    parser.add_argument("agent")
    parser.add_argument("--margin", type=float, default=0.25)
    parser.add_argument("--references", nargs="+", default=["noop", "random"], help="of noop, random, peer:AGENT")
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=4_000, help="episodes side by side; some 16 for Python environments")
    parser.add_argument(
        "--show", type=int, default=0, help="instead: so many episodes in words, as they are and with the agent doing nothing"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not 0 < args.margin < 1:
        raise SystemExit(f"--margin {args.margin} must lie between 0 and 1: it is a fraction of an equal share")
    if args.episodes < 2 or args.batch < 1:
        raise SystemExit(
            f"--episodes {args.episodes} must be at least 2, or there is no standard error, and --batch {args.batch} at least 1"
        )
    try:
        run = load(args.run)
    except UserError as error:
        raise SystemExit(str(error)) from error
    if run.config.members or run.team.sampled or run.config.network.kind != "mlp":
        raise SystemExit("only greedy teams of memoryless networks without planted members are checked here")
    if args.agent not in run.env.spec.agents:
        raise SystemExit(f"no agent {args.agent}; there are {', '.join(run.env.spec.agents)}")
    known = ["noop", "random", *(f"peer:{name}" for name in run.env.spec.agents if name != args.agent)]
    if not set(args.references) <= set(known):
        raise SystemExit(f"--references {' '.join(args.references)}: there are {', '.join(known)}")
    agent = run.env.spec.agents.index(args.agent)
    with torch.no_grad():
        for seed in range(FIRST_SEED, FIRST_SEED + args.show):
            print("\n".join(episode_in_words(run.env, run.networks["utility"], seed, {})))
            print(f"  the same with {args.agent} doing nothing")
            print("\n".join(episode_in_words(run.env, run.networks["utility"], seed, {agent: noop(run.env)})), flush=True)
        if not args.show:
            print("\n".join(check(run, agent, args.margin, args.references, args.episodes, args.batch)))


if __name__ == "__main__":
    main()
