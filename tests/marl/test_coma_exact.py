"""Critic and COMA against exact enumeration, with data from a behaviour mu that is not the policy pi.

Every number is worked out twice: by the learners, and by loops over all joint actions that share no code with them. The games
are tables (place, u_1, ..., u_n) -> reward and the place reached; agents see the place. Two versions that look right and are not,
the stored next action as the critic's target and the ratio of the agent's own action alone, fail the same checks here.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamSpec
from teamcredit.marl.config import ComaConfig, Config, CriticConfig, LearnerConfig, NetworkConfig
from teamcredit.marl.critic import CounterfactualCritic
from teamcredit.marl.data import Minibatch, Rollout
from teamcredit.marl.learners import coma
from teamcredit.marl.learners.base import AGENTS, Context
from teamcredit.marl.learners.coma import ComaLearner
from torch import Tensor, nn

GAMMA, LAMBDA = 0.9, 0.8
TARGETS = ["one-step", "retrace", "tree-backup"]
Joint = tuple[int, ...]


@dataclass(frozen=True)
class Game:
    """Places are passed in rising order; the joint action u at a place pays `reward[place, *u]`."""

    reward: Tensor
    follows: Tensor
    """The place reached; -1 where the episode terminates."""
    allowed: Tensor
    """(agent, action)"""
    alive: Tensor
    """(agent,)"""

    @property
    def places(self) -> int:
        return len(self.reward)

    @property
    def num_agents(self) -> int:
        return self.reward.dim() - 1

    @property
    def num_actions(self) -> int:
        return self.reward.shape[-1]


def one_step(reward: Tensor) -> Game:
    agents, actions = reward.dim(), reward.shape[-1]
    ends = torch.full((1, *reward.shape), -1)
    return Game(reward.unsqueeze(0), ends, torch.ones(agents, actions, dtype=torch.bool), torch.ones(agents, dtype=torch.bool))


def two_step() -> Game:
    reward = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])
    follows = torch.full((3, 2, 2), -1)
    follows[0] = torch.tensor([[1, 1], [2, 2]])
    return Game(reward, follows, torch.ones(2, 2, dtype=torch.bool), torch.ones(2, dtype=torch.bool))


def relay() -> Game:
    """Three agents, up to three steps: a joint action leads on or skips a place; agent 1 lacks action 2."""
    generator = torch.Generator().manual_seed(7)
    shape = (3, 3, 3, 3)
    follows = torch.arange(3).view(3, 1, 1, 1) + torch.randint(1, 3, shape, generator=generator)
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[1, 2] = False
    reward = 3 * torch.randn(shape, generator=generator)
    return Game(reward, torch.where(follows < 3, follows, -1), allowed, torch.ones(3, dtype=torch.bool))


def with_a_dead_agent(game: Game) -> Game:
    """Agent 1 is dead: action 0 is all it has."""
    allowed, alive = game.allowed.clone(), game.alive.clone()
    allowed[1], allowed[1, 0], alive[1] = False, True, False
    return replace(game, allowed=allowed, alive=alive)


CLIMBING = one_step(torch.tensor([[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]]))
TRIO = one_step(10 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(3)))
GAMES = {
    "climbing": CLIMBING, "trio": TRIO, "trio with a dead agent": with_a_dead_agent(TRIO), "two-step": two_step(), "relay": relay(),
    "relay with a dead agent": with_a_dead_agent(relay()),
}  # fmt: skip
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES.keys())


class TableCritic(CounterfactualCritic):
    """The critic whose values stand in a table (place, u_1, ..., u_n)."""

    def __init__(self, game: Game, table: Tensor):
        sizes = {"num_agents": game.num_agents, "obs_dim": game.places, "state_dim": game.places, "num_actions": game.num_actions}
        super().__init__(CriticConfig(kind="mlp", hidden=1), **sizes)
        self.table = table

    def features(self, state, obs):
        return state.unsqueeze(-2).expand(*obs.shape[:-1], -1)

    def rows(self, features, action, acting):
        place, action = features[..., 0, :].argmax(-1), torch.where(acting, action, 0)
        entries = []
        for agent, choice in itertools.product(range(self.num_agents), range(self.table.shape[-1])):
            joint = action.clone()
            joint[..., agent] = choice
            entries.append(self.table[(place, *joint.unbind(-1))])
        return torch.stack(entries, -1).unflatten(-1, (self.num_agents, -1))


def make(game: Game, *, actions: Any = "resampled", target: Any = "one-step") -> ComaLearner:
    spec = TeamSpec("game", tuple(f"agent_{i}" for i in range(game.num_agents)), game.num_actions, game.places, game.places)
    config = Config(
        "game",
        algo="coma",
        network=NetworkConfig(hidden=8),
        critic=CriticConfig(hidden=64, layers=1, layer_norm=False, target=target, trace_lambda=LAMBDA),
        learner=LearnerConfig(gamma=GAMMA),
        coma=ComaConfig(actions=actions, entropy=0.0),
    )
    return ComaLearner(config, spec, "none")


def decided(learner: ComaLearner) -> nn.ModuleDict:
    """Fresh networks, the policy far from uniform."""
    networks = learner.make_networks(0)
    with torch.no_grad():
        networks["utility"].head.weight *= 3
    return networks


def with_table(learner: ComaLearner, game: Game, table: Tensor) -> nn.ModuleDict:
    networks = decided(learner)
    networks["critic"] = TableCritic(game, table)
    return networks


# By enumeration.


def policy_of(networks: nn.ModuleDict, game: Game, epsilon: float = 0.0) -> Tensor:
    """(place, agent, action), with a gradient: (1 - epsilon) e^z / sum e^z + epsilon / number, over the allowed actions."""
    seen = torch.eye(game.places).unsqueeze(1).expand(-1, game.num_agents, -1)
    logits, _ = networks["utility"](seen, seen[..., :0])
    weight = logits.exp() * game.allowed
    return (1 - epsilon) * weight / weight.sum(-1, keepdim=True) + epsilon * game.allowed / game.allowed.sum(-1, keepdim=True)


def behaviour_of(game: Game, seed: int = 6) -> Tensor:
    """A behaviour that is not the policy: (place, agent, action)."""
    weight = (1.5 * torch.randn(game.places, game.num_agents, game.num_actions, generator=torch.Generator().manual_seed(seed))).exp()
    weight = weight * game.allowed
    return weight / weight.sum(-1, keepdim=True)


def joint_actions(game: Game) -> Iterator[Joint]:
    for joint in itertools.product(range(game.num_actions), repeat=game.num_agents):
        if all(game.allowed[agent, action] for agent, action in enumerate(joint)):
            yield joint


def probability(policy: Tensor, joint: Joint) -> Tensor:
    """Of a joint action under (agent, action)."""
    product = torch.ones(())
    for agent, action in enumerate(joint):
        product = product * policy[agent, action]
    return product


def backed_up(game: Game, correct: Callable[[int, Joint, Tensor], Tensor | float], value: Callable[[int, Tensor], Tensor]) -> Tensor:
    """G[place, u] = r + gamma (value(next) + sum_u' correct(next, u', G)), from the last place backwards."""
    table = torch.zeros_like(game.reward)
    for place in reversed(range(game.places)):
        for joint in joint_actions(game):
            at, reached = (place, *joint), int(game.follows[(place, *joint)])
            table[at] = game.reward[at]
            if reached >= 0:
                corrections = sum(float(correct(reached, after, table)) for after in joint_actions(game))
                table[at] += GAMMA * (value(reached, table) + corrections)
    return table


def expectation(game: Game, policy: Tensor, table: Tensor, place: int) -> Tensor:
    return torch.stack([probability(policy[place], joint) * table[(place, *joint)] for joint in joint_actions(game)]).sum()


def exact_q(game: Game, policy: Tensor) -> Tensor:
    """Q^policy."""
    return backed_up(game, lambda *_: 0.0, lambda place, table: expectation(game, policy, table, place))


def exact_target(game: Game, policy: Tensor, mu: Tensor, critic: Tensor, kind: str) -> Tensor:
    """The expected target at each (place, u): policy pi, data from mu, a critic's table inside."""

    def correction(place: int, joint: Joint, table: Tensor) -> Tensor:
        pi, behaved = probability(policy[place], joint), probability(mu[place], joint)
        trace = {"one-step": 0 * pi, "retrace": LAMBDA * (pi / behaved).clamp(max=1.0), "tree-backup": LAMBDA * pi}[kind]
        return behaved * trace * (table[(place, *joint)] - critic[(place, *joint)])

    return backed_up(game, correction, lambda place, _: expectation(game, policy, critic, place))


def exact_gradient(networks: nn.ModuleDict, game: Game, table: Tensor, place: int, epsilon: float) -> Tensor:
    """grad E_pi[Q(place, u)]."""
    return gradient_of(expectation(game, policy_of(networks, game, epsilon), table, place), networks)


def gradient_of(total: Tensor, networks: nn.ModuleDict) -> Tensor:
    parameters = list(networks["utility"].parameters())
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


# Data from mu.


def trajectories(game: Game, mu: Tensor, starts: list[tuple[int, Joint]], copies: int, seed: int = 0) -> Rollout:
    """`copies` episodes from each first (place, u), played on with mu; padded with NaN."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.tensor([start for start, _ in starts]).repeat_interleave(copies)
    action = torch.tensor([joint for _, joint in starts]).repeat_interleave(copies, 0)
    running, rows = torch.ones(len(place), dtype=torch.bool), []
    for _ in range(game.places):
        follows = game.follows[(place, *action.unbind(-1))]
        rows.append((place, action, follows, running))
        running, place = running & (follows >= 0), follows.clamp(min=0)
        action = torch.stack([torch.multinomial(mu[place, i], 1, generator=generator).squeeze(-1) for i in range(game.num_agents)], -1)
    return rollout(game, mu, *(torch.stack(column) for column in zip(*rows, strict=True)))


def rollout(game: Game, mu: Tensor, place: Tensor, action: Tensor, follows: Tensor, valid: Tensor) -> Rollout:
    """(time, env) places and joint actions as a rollout."""
    one_hot = torch.eye(game.places)
    state, next_state = one_hot[place], one_hot[follows.clamp(min=0)]
    alive, available = game.alive.expand(*place.shape, -1), game.allowed.expand(*place.shape, -1, -1)
    behaviour = mu.detach()[place].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    reward = game.reward[(place, *action.unbind(-1))].masked_fill(~valid, torch.nan)

    def seen(state: Tensor) -> Tensor:
        return state.unsqueeze(-2).expand(*place.shape, game.num_agents, -1)

    return Rollout(
        obs=seen(state), state=state, available=available, alive=alive, action=action, behaviour=behaviour, reward=reward,
        agent_reward=torch.zeros(alive.shape), terminated=follows < 0, truncated=torch.zeros_like(valid),
        episode_start=torch.arange(len(place)).unsqueeze(1).expand(place.shape) == 0, valid=valid,
        policy_version=torch.zeros_like(place), actor=torch.zeros_like(place), next_obs=seen(next_state), next_state=next_state,
        next_available=available, next_alive=alive,
    )  # fmt: skip


def moment(game: Game, mu: Tensor, place: int, joint: Joint, copies: int = 1) -> Minibatch:
    """One joint action at one place, as stored by mu."""
    places = torch.full((1, copies), place)
    action = torch.tensor(joint).expand(1, copies, -1)
    follows = game.follows[(places, *action.unbind(-1))]
    return Minibatch(rollout(game, mu, places, action, follows, torch.ones_like(places, dtype=torch.bool)))


# The critic's targets.


def starts_of(game: Game) -> list[tuple[int, Joint]]:
    return list(itertools.product(range(game.places), joint_actions(game)))


def missed(found: Tensor, expected: Tensor) -> Tensor:
    """How far means over samples (start, sample) lie from what is expected, in units of (five standard errors + 1e-4)."""
    error = 5 * found.std(-1) / found.shape[-1] ** 0.5 + 1e-4
    return (found.mean(-1) - expected).abs() / error


def at_starts(game: Game, table: Tensor) -> Tensor:
    return torch.stack([table[(place, *joint)] for place, joint in starts_of(game)])


@pytest.mark.parametrize("target", TARGETS)
@every_game
def test_the_critics_targets_are_the_exact_ones_on_data_from_another_behaviour(game, target):
    """In the mean over fresh draws and over what mu did next, within five standard errors at every (place, u)."""
    learner, mu, copies = make(game, target=target), behaviour_of(game), 300
    networks, generator = decided(learner), torch.Generator().manual_seed(0)
    policy = policy_of(networks, game, 0.2).detach()
    value = exact_q(game, policy)
    steps = trajectories(game, mu, starts_of(game), copies)
    context = Context(epsilon=0.2, generator=generator)
    for table, expected in (
        (value, value),  # exact Q^pi in, exact Q^pi out
        (random_table := torch.randn(value.shape, generator=generator), exact_target(game, policy, mu, random_table, target)),
    ):
        found = learner.critic.returns(networks, with_table(learner, game, table), Minibatch(steps), context)[0]
        assert missed(found.unflatten(0, (-1, copies)), at_starts(game, expected)).max() < 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("game", [relay(), with_a_dead_agent(relay())], ids=["relay", "relay with a dead agent"])
def test_the_traces_are_those_of_the_joint_action(game, target):
    """A critic of 0 leaves G_t = r_t + gamma c_{t+1} G_{t+1}: no draw is in it, so every return is exact."""
    learner, mu = make(game, target=target), behaviour_of(game)
    networks = decided(learner)
    policy = policy_of(networks, game, 0.3).detach()
    steps = trajectories(game, mu, starts_of(game), 2)
    context = Context(epsilon=0.3, generator=torch.Generator().manual_seed(0))
    found = learner.critic.returns(networks, with_table(learner, game, 0 * game.reward), Minibatch(steps), context)
    for copy in range(found.shape[1]):
        following = 0.0
        for t in reversed(range(int(steps.valid[:, copy].sum()))):
            place, joint = int(steps.state[t, copy].argmax()), tuple(steps.action[t, copy].tolist())
            following = float(steps.reward[t, copy]) + GAMMA * following
            assert float(found[t, copy]) == pytest.approx(following, abs=1e-4)
            pi, behaved = float(probability(policy[place], joint)), float(probability(mu[place], joint))
            following *= {"one-step": 0.0, "retrace": LAMBDA * min(1.0, pi / behaved), "tree-backup": LAMBDA * pi}[target]


@pytest.mark.parametrize("game", [two_step(), relay()], ids=["two-step", "relay"])
def test_the_stored_next_action_fails_the_same_check(game):
    """Fed the exact Q^pi, r + gamma Q(s', u' as stored) is not Q^pi in the mean: its next actions are those of mu."""
    learner, mu, copies = make(game), behaviour_of(game), 300
    policy = policy_of(decided(learner), game, 0.2).detach()
    value = exact_q(game, policy)
    steps = trajectories(game, mu, starts_of(game), copies)
    found = naive_target(steps, stored_values(TableCritic(game, value), steps))[0]
    assert missed(found.unflatten(0, (-1, copies)), at_starts(game, value)).max() > 2


def stored_values(critic: CounterfactualCritic, steps: Rollout) -> Tensor:
    """Q(s, u) of the joint actions as stored: the first agent's row at its own action."""
    rows = critic.rows(critic.features(steps.state, steps.obs), steps.action, steps.alive)
    return rows.gather(-1, steps.action.unsqueeze(-1)).squeeze(-1)[..., 0]


def naive_target(steps: Rollout, value: Tensor) -> Tensor:
    """SARSA: r + gamma Q(s', u'), u' being the action that was taken next."""
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    return steps.reward + GAMMA * following.masked_fill(steps.terminated, 0.0)


def eager(networks: nn.ModuleDict) -> None:
    """Move a policy towards action 1 in every place, so that it differs from a behaviour that prefers 0."""
    with torch.no_grad():
        networks["utility"].head.bias += torch.tensor([-1.0, 1.0])


def fit(learner: ComaLearner, steps: Rollout, target: Callable[[nn.ModuleDict], Tensor | None], iterations: int = 300) -> nn.ModuleDict:
    """The critic trained alone, the policy as it is; targets copied every 10 iterations."""
    networks, targets = learner.make_networks(0), learner.make_networks(1)
    eager(networks)
    optimiser = torch.optim.Adam(networks["critic"].parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, iterations)
    context = Context(generator=torch.Generator().manual_seed(0))
    for iteration in range(iterations):
        if iteration % 10 == 0:
            targets.load_state_dict(networks.state_dict())
        loss = learner.critic.loss(networks, targets, Minibatch(steps), target=target(targets), context=context)
        optimiser.zero_grad()
        (loss.total / loss.weight).backward()
        optimiser.step()
        schedule.step()
    return networks


def learned_table(networks: nn.ModuleDict, game: Game) -> Tensor:
    """(start, agent): each agent's row of the trained critic at its own action."""
    mu = behaviour_of(game)
    values = []
    for place, joint in starts_of(game):
        steps = moment(game, mu, place, joint).steps
        rows = networks["critic"].rows(networks["critic"].features(steps.state, steps.obs), steps.action, steps.alive)
        values.append(rows.gather(-1, steps.action.unsqueeze(-1)).flatten())
    return torch.stack(values).detach()


MU = torch.tensor([0.75, 0.25]).expand(3, 2, 2)


def episodes_of_mu(game: Game) -> Rollout:
    """The two-step game's episodes: each first joint action, then the second ones in exact proportion to MU (9 : 3 : 3 : 1)."""
    second = [joint for joint in joint_actions(game) for _ in range(round(16 * float(probability(MU[1], joint))))]
    first, then = zip(*itertools.product(joint_actions(game), second), strict=True)
    action = torch.tensor([first, then])
    place = torch.stack([torch.zeros(len(then), dtype=torch.int64), 1 + action[0, :, 0]])
    follows = game.follows[(place, *action.unbind(-1))]
    return rollout(game, MU, place, action, follows, torch.ones_like(place, dtype=torch.bool))


@pytest.mark.parametrize("target", ["one-step", *(pytest.param(target, marks=pytest.mark.slow) for target in TARGETS[1:])])
def test_a_critic_trained_on_data_from_another_behaviour_learns_the_policys_values(target):
    """Two-step game, mu prefers action 0, pi action 1: every row within 0.25 of Q^pi on values from 0 to 8."""
    game, learner = two_step(), make(two_step(), target=target)
    steps = episodes_of_mu(game)
    networks = fit(learner, steps, lambda _: None)
    expected = at_starts(game, exact_q(game, policy_of(networks, game).detach()))
    assert (learned_table(networks, game) - expected.unsqueeze(-1)).abs().max() < 0.25


def test_a_critic_trained_on_stored_next_actions_learns_the_behaviours_values_instead():
    """The same data, network and iterations: off by more than 2 from Q^pi, within 0.25 of Q^mu."""
    game, learner = two_step(), make(two_step())
    steps = episodes_of_mu(game)
    networks = fit(learner, steps, lambda targets: naive_target(steps, stored_values(targets["critic"], steps)).detach().unsqueeze(-1))
    found, policy = learned_table(networks, game), policy_of(networks, game).detach()
    assert (found - at_starts(game, exact_q(game, policy)).unsqueeze(-1)).abs().max() > 2
    assert (found - at_starts(game, exact_q(game, MU)).unsqueeze(-1)).abs().max() < 0.25


# The policies' gradients.


def gradient(
    learner: ComaLearner, networks: nn.ModuleDict, game: Game, mu: Tensor, place: int, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """The learner's ascent direction, every joint action weighted with the probability that it is stored or drawn."""
    total, context = torch.zeros(()), Context(epsilon=epsilon, generator=torch.Generator().manual_seed(0))
    stored = learner.config.coma.actions == "stored"
    drawn_from = mu if stored else policy_of(networks, game, epsilon)
    somewhere = next(joint_actions(game))
    for joint in joint_actions(game):
        if not stored:  # what is stored does not matter: each joint action is drawn in turn
            monkeypatch.setattr(coma, "draw", lambda policy, number, joint=joint: torch.tensor(joint).expand(number.shape))
        minibatch = moment(game, mu, place, joint if stored else somewhere)
        loss = learner.losses(networks, networks, minibatch, planned={}, context=context)[AGENTS]
        total = total - probability(drawn_from[place], joint).detach() * loss.total
    return gradient_of(total, networks)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("version", ["fresh", "resampled", "stored"])
@every_game
def test_the_policies_gradient_is_the_exact_one(game, version, epsilon, monkeypatch):
    """(a) fresh: mu = pi, ratio 1; (b) all actions resampled; (c) stored actions of another mu with the joint ratio."""
    learner = make(game, actions="resampled" if version == "resampled" else "stored")
    policy = policy_of(decided(learner), game, epsilon).detach()
    networks = with_table(learner, game, exact_q(game, policy))
    mu = policy if version == "fresh" else behaviour_of(game)
    for place in range(game.places):
        expected = exact_gradient(networks, game, networks["critic"].table, place, epsilon)
        if game.reward[place].unique().numel() > 1 or (game.follows[place] >= 0).any():
            assert relative(gradient(learner, networks, game, mu, place, epsilon, monkeypatch), expected) < 1e-4
        else:  # every joint action is worth the same
            assert gradient(learner, networks, game, mu, place, epsilon, monkeypatch).norm() < 1e-4 * game.reward[place].abs().max()


def scores(game: Game, policy: Tensor, mu: Tensor, values: Tensor, ratio: str) -> Tensor:
    """sum_u mu(u) sum_i rho A_i(u) log pi_i(u_i) over the living agents, of one place; rho of the joint or of the own action."""
    total = torch.zeros(())
    for joint in joint_actions(game):
        pi_u, mu_u = probability(policy, joint), probability(mu, joint)
        for agent in range(game.num_agents):
            pi_i, mu_i = policy[agent, joint[agent]], mu[agent, joint[agent]]
            others = [(*joint[:agent], action, *joint[agent + 1 :]) for action in range(game.num_actions)]
            advantage = values[joint] - sum(policy[agent, other[agent]] * values[other] for other in others)
            rho = {"joint": pi_u / mu_u, "own": pi_i / mu_i}[ratio]
            if game.alive[agent]:
                total = total + (mu_u * rho * advantage).detach() * pi_i.log()
    return total


@every_game
def test_the_gradient_of_the_policys_value_is_the_advantages_times_the_scores(game):
    """sum_i E_pi[A_i grad log pi_i] = grad E_pi[Q], both enumerated: what COMA's gradient is held against."""
    networks = decided(make(game))
    policy = policy_of(networks, game, 0.3)
    table = exact_q(game, policy.detach())
    for place in range(game.places):
        scored = scores(game, policy[place], policy[place], table[place], "joint")
        assert (gradient_of(scored, networks) - exact_gradient(networks, game, table, place, 0.3)).norm() < 1e-4 * table[place].abs().max()


@pytest.mark.parametrize("name", ["climbing", "trio", "two-step", "relay"])
def test_the_ratio_of_the_own_action_alone_fails_the_same_check(name):
    """pi_i/mu_i credits agent i against teammates that still play mu: off by over a fifth of the gradient's length at some place."""
    game = GAMES[name]
    networks, mu = decided(make(game)), behaviour_of(game)
    policy = policy_of(networks, game)
    table = exact_q(game, policy.detach())
    furthest = {"joint": 0.0, "own": 0.0}
    for place in range(game.places):
        expected = exact_gradient(networks, game, table, place, 0.0)
        if expected.norm() < 1e-4:  # 2A pays 7 whatever is played
            continue
        for ratio, far in furthest.items():
            found = gradient_of(scores(game, policy[place], mu[place], table[place], ratio), networks)
            furthest[ratio] = max(far, relative(found, expected))
    assert furthest["joint"] < 1e-4
    assert furthest["own"] > 0.2


@every_game
def test_on_the_policys_own_data_the_replay_version_is_the_on_policy_version(game, monkeypatch):
    stored, resampled = make(game, actions="stored"), make(game, actions="resampled")
    policy = policy_of(decided(stored), game, 0.1).detach()
    networks = with_table(stored, game, exact_q(game, policy))
    for place in range(game.places):
        first, second = (gradient(learner, networks, game, policy, place, 0.1, monkeypatch) for learner in (stored, resampled))
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
        for joint in joint_actions(game):
            loss = stored.losses(networks, networks, moment(game, policy, place, joint), planned={}, context=Context(epsilon=0.1))[AGENTS]
            torch.testing.assert_close(loss.metrics["ratio"], loss.weight)  # rho = 1


def test_fresh_draws_meet_the_exact_gradient_too():
    """(b) with its own random numbers: 16 x 512 draws, the error's length within two of its standard errors."""
    game, learner = TRIO, make(TRIO)
    policy = policy_of(decided(learner), game, 0.2).detach()
    networks = with_table(learner, game, exact_q(game, policy))
    minibatch = moment(game, behaviour_of(game), 0, (0, 0, 0), copies=512)
    context = Context(epsilon=0.2, generator=torch.Generator().manual_seed(0))
    losses = [learner.losses(networks, networks, minibatch, planned={}, context=context)[AGENTS].total for _ in range(16)]
    found = torch.stack([gradient_of(-loss / 512, networks) for loss in losses])
    expected = exact_gradient(networks, game, networks["critic"].table, 0, 0.2)
    standard_error = (found.var(0).sum() / len(found)).sqrt()
    assert standard_error < 0.1 * expected.norm()
    assert (found.mean(0) - expected).norm() < 2 * standard_error
