"""What every native task promises: copies are independent, states fork and save, ended copies freeze, inputs stay as they are."""

import pytest
import torch
from teamcredit.envs.base import TeamEnv
from teamcredit.envs.coalition import CoalitionTask
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.key_and_door import KeyAndDoor
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.native import NativeEnv, name_tensors
from teamcredit.envs.plate_and_door import PlateAndDoor
from teamcredit.envs.predator_prey import PredatorPrey
from teamcredit.envs.randomness import EXPLORE, Clock, choice, copy_seeds
from teamcredit.envs.spread import Spread
from teamcredit.envs.switch import Switch
from teamcredit.envs.two_step import TwoStep
from teamcredit.envs.uphill import Uphill
from teamcredit.envs.warehouse import Warehouse

TASKS = {
    "spread": lambda: Spread(episode_limit=8),
    "spread of five": lambda: Spread(num_agents=5, episode_limit=6, team_reward="mean"),
    "spread of one": lambda: Spread(num_agents=1, episode_limit=5),
    "foraging": lambda: Foraging(episode_limit=12),
    "foraging, short sight": lambda: Foraging(5, 5, 3, 2, sight=1, episode_limit=10),
    "foraging, penalty and relative": lambda: Foraging(6, 7, 2, 2, penalty=0.25, relative_obs=True, episode_limit=10),
    "switch": lambda: Switch(episode_limit=14),
    "switch of four, all seen": lambda: Switch(4, clock=True, full_obs=True, team_reward="mean", episode_limit=9),
    "predator-prey": lambda: PredatorPrey(episode_limit=14),
    "predator-prey, crowded": lambda: PredatorPrey(3, 4, 4, 6, sight=1, penalty=0.5, episode_limit=12),
    "warehouse": lambda: Warehouse(episode_limit=14),
    "warehouse, crowded, two stages": lambda: Warehouse(2, 1, 1, 4, 1, sensor_range=2, reward_type="two_stage", episode_limit=10),
    "climbing": MatrixGame,
    "unequal matrix": lambda: MatrixGame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "two-step": TwoStep,
    "plate and door": PlateAndDoor,
    "delayed chain": DelayedChain,
    "delayed chain with cues": lambda: DelayedChain(3, 5, 3, cue=True),
    "key and door": KeyAndDoor,
    "uphill": Uphill,
    "uphill of five, short": lambda: Uphill(5, 2, 4, toll=0.2),
    "coalition": lambda: CoalitionTask([0.0, 1.0, 1.0, 3.0, 0.5, 2.0, 0.0, -1.0]),
}
NO_RANGE = ("spread", "warehouse")  # tasks that declare no return_range
every_task = pytest.mark.parametrize("env", [make() for make in TASKS.values()], ids=list(TASKS))


def random_action(view, clock: Clock):
    """Uniform over what is available; copy k's action depends on copy k alone."""
    keys = torch.stack([clock.key(EXPLORE) + i for i in range(view.available.shape[1])], 1)
    return choice(keys, view.available)


def play(env: NativeEnv, state, view, steps: int, autoreset: bool = True) -> list[dict]:
    history = []
    for _ in range(steps):
        state, step, view = env.step(state, random_action(view, state.clock), autoreset=autoreset)
        parts = (
            name_tensors(state)
            | {f"view.{k}": v for k, v in name_tensors(view).items()}
            | {f"after.{k}": v for k, v in name_tensors(step.after).items()}
        )
        parts |= {"reward": step.reward, "terminated": step.terminated, "truncated": step.truncated}
        history.append({k: v.clone() for k, v in parts.items()})
    return history


def assert_same(first: list[dict], second: list[dict]):
    for t, (one, two) in enumerate(zip(first, second, strict=True)):
        for name in one:
            assert torch.equal(one[name], two[name]), f"{name} differs at step {t}"


@every_task
def test_copy_k_alone_is_copy_k_among_4096_bit_for_bit(env):
    seeds = copy_seeds(7, 4096)
    together = play(env, *env.reset(seeds), 30)
    for rows in ([0], [1], [17, 2900], [4093, 4094, 4095], list(range(40, 77))):
        alone = play(env, *env.reset(seeds[rows]), 30)
        assert_same([{k: v[rows] for k, v in moment.items()} for moment in together], alone)


@every_task
def test_selected_copies_have_the_same_future(env):
    state, view = env.reset(copy_seeds(1, 6))
    state, _, view = env.step(state, random_action(view, state.clock))
    rows = torch.tensor([4, 4, 0, 5])
    future = play(env, state, view, 20)
    view_of_rows = type(view)(view.obs[rows], view.state[rows], view.available[rows], view.alive[rows])
    forks = play(env, env.select(state, rows), view_of_rows, 20)
    assert_same([{k: v[rows] for k, v in moment.items()} for moment in future], forks)


@every_task
def test_a_loaded_state_goes_on_as_the_dumped_one(env):
    state, view = env.reset(copy_seeds(2, 5))
    state, _, view = env.step(state, random_action(view, state.clock))
    saved = env.dump(state)
    assert_same(play(env, state, view, 15), play(env, env.load(saved), view, 15))


def test_a_state_of_another_task_is_refused():
    saved = TwoStep().dump(TwoStep().reset(torch.arange(2))[0])
    with pytest.raises(ValueError, match="not of spread"):
        Spread().load(saved)


@every_task
def test_without_autoreset_an_ended_copy_stays_as_it_ended(env):
    state, view = env.reset(copy_seeds(3, 64))
    history = play(env, state, view, 20, autoreset=False)
    ended_at = {}
    for t, moment in enumerate(history):
        done = moment["terminated"] | moment["truncated"]
        assert not (moment["terminated"] & moment["truncated"]).any()
        for k, last in ended_at.items():
            for name in moment:
                before, now = history[last][name][k], moment[name][k]
                assert torch.equal(now, torch.zeros_like(now) if name == "reward" else before), name
        ended_at |= {k: t for k in done.nonzero().flatten().tolist() if k not in ended_at}
    assert len(ended_at) == 64


@every_task
def test_a_step_writes_into_none_of_its_inputs(env):
    state, view = env.reset(copy_seeds(4, 32))
    for _ in range(15):
        action = random_action(view, state.clock)
        kept = {name: tensor.clone() for name, tensor in (name_tensors(state) | name_tensors(view)).items()}
        action_kept = action.clone()
        next_state, step, next_view = env.step(state, action)
        after = {name: tensor.clone() for name, tensor in name_tensors(step.after).items()}
        env.step(next_state, random_action(next_view, next_state.clock))
        for name, tensor in (name_tensors(state) | name_tensors(view)).items():
            assert torch.equal(tensor, kept[name]), name
        for name, tensor in name_tensors(step.after).items():
            assert torch.equal(tensor, after[name]), name
        assert torch.equal(action, action_kept)
        state, view = next_state, next_view


@every_task
def test_views_have_the_sizes_and_labels_of_the_spec(env):
    spec = env.spec
    assert isinstance(env, TeamEnv)
    state, view = env.reset(copy_seeds(5, 3))
    assert view.obs.shape == (3, spec.num_agents, spec.obs_dim)
    assert view.obs.dtype == spec.obs_dtype
    assert view.state.shape == (3, spec.state_dim)
    assert view.available.shape == (3, spec.num_agents, spec.num_actions)
    assert view.available.any(-1).all()
    assert view.alive.all()
    assert all(len(set(names)) == len(names) == spec.obs_dim for names in spec.obs_names)
    assert all(len(names) <= spec.num_actions for names in spec.action_names)
    step = env.step(state, random_action(view, state.clock))[1]
    assert step.reward.dtype == torch.float32
    if spec.noop is not None:
        assert view.available[:, torch.arange(spec.num_agents), torch.tensor(spec.noop)].all()


@every_task
def test_the_view_to_act_on_next_differs_from_the_last_one_only_where_an_episode_ended(env):
    state, view = env.reset(copy_seeds(6, 64))
    resets = 0
    for _ in range(25):
        state, step, view = env.step(state, random_action(view, state.clock))
        done = step.terminated | step.truncated
        assert torch.equal(view.obs[~done], step.after.obs[~done])
        assert torch.equal(state.clock.step == 0, done)
        resets += int(done.sum())
    assert resets >= 64


@pytest.mark.parametrize(
    "env", [make() for name, make in TASKS.items() if not name.startswith(NO_RANGE)], ids=[n for n in TASKS if not n.startswith(NO_RANGE)]
)
def test_episode_returns_stay_in_the_declared_range(env):
    low, high = env.spec.return_range
    state, view = env.reset(copy_seeds(8, 256))
    total = torch.zeros(256)
    for _ in range(env.spec.episode_limit):
        state, step, view = env.step(state, random_action(view, state.clock), autoreset=False)
        total += step.reward
    assert (total >= low - 1e-5).all()
    assert (total <= high + 1e-5).all()
