"""Copies of live environments: exact, independent, and refused by name where they are not."""

import copy
import random
import threading
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.ezpickle import EzPickle
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel_wrapper, parallel_to_aec
from teamcredit.envs.fork import copy_env
from teamcredit.envs.fork_check import CopyCheck, check_copy, global_streams, moved_stream
from teamcredit.envs.fork_kinds import CannotCopy, is_plain
from teamcredit.envs.fork_parts import difference, parts_of, shared_part
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import EXPLORE, Clock
from teamcredit.envs.registry import make
from teamcredit.marl.exploration import uniform_policy

torch.set_num_threads(1)


class Walk(ParallelEnv):
    """Two agents on a line, pushed by a draw of the environment's own generator; truncated after 12 steps."""

    metadata: ClassVar = {"name": "walk"}
    length = 12

    def __init__(self):
        self.possible_agents = ["a", "b"]
        self.box = Box(-np.inf, np.inf, (3,), np.float32)
        self.choices = {agent: Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.box

    def action_space(self, agent):
        return self.choices[agent]

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.t, self.place, self.agents = 0, self.rng.normal(size=2), list(self.possible_agents)
        return self.see(), {agent: {} for agent in self.agents}

    def see(self):
        seen = np.array([*self.place, self.t], dtype=np.float32)
        return {agent: seen.copy() for agent in self.agents}

    def push(self) -> Any:
        return self.rng.normal(size=2)

    def step(self, actions):
        self.t += 1
        self.place += np.array(list(actions.values())) - 1 + self.push()
        obs, agents, over = self.see(), self.agents, self.t == self.length
        if over:
            self.agents = []
        each, infos = dict.fromkeys, {agent: {} for agent in agents}
        return obs, each(agents, float(self.place.sum())), each(agents, False), each(agents, over), infos


class Pickled(Walk, EzPickle):
    """Says, as many environments do, that its constructor arguments are all there is."""

    def __init__(self):
        Walk.__init__(self)
        EzPickle.__init__(self)
        self.reset(seed=99)


class Sharing(Walk):
    """Shares its places with every copy that asks its class how to copy it."""

    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.__dict__.update({name: copy.deepcopy(held, memo) for name, held in vars(self).items() if name != "place"})
        twin.place = self.place
        return twin


class GloballyRandom(Walk):
    def push(self):
        return np.random.mtrand._rand.normal(size=2)


class PythonsRandom(Walk):
    def push(self):
        return random._inst.random()


class TorchsRandom(Walk):
    def push(self):
        return float(torch.rand((), generator=torch.default_generator))


class Unseeded(Walk):
    def push(self):
        return np.random.default_rng().normal(size=2)


class KeptByClass(Walk):
    """All instances count their steps in one list."""

    pushes: ClassVar[list[int]] = []

    def push(self):
        self.pushes.append(1)
        return 0.0


class Generating(Walk):
    """Draws come out of a running generator."""

    def reset(self, seed=None, options=None):
        seen = super().reset(seed=seed)
        self.stream = (self.rng.normal() for _ in iter(int, 1))
        return seen

    def push(self):
        return next(self.stream)


class Locked(Walk):
    def __init__(self):
        super().__init__()
        self.tools = {"lock": threading.Lock()}


class Threaded(Walk):
    def __init__(self):
        super().__init__()
        self.helpers = [threading.Thread(target=print)]


class FromTheSpace(Walk):
    """Pushes are drawn from a space, whose stream is then part of the state."""

    def reset(self, seed=None, options=None):
        self.pushes = Box(-1, 1, (2,), np.float64, seed=seed)
        return super().reset(seed=seed)

    def push(self):
        return self.pushes.sample()


class Aliased(Walk):
    """Everything that a careless copy takes apart: views, closures, bound methods, weak references, dicts keyed by objects."""

    def reset(self, seed=None, options=None):
        self.memory = np.zeros(6)
        seen = super().reset(seed=seed)
        self.memory[2:4] = self.place
        self.place = self.memory[2:4]  # a view: the sum over all memory sees each move
        self.reversed = self.memory[::-2]
        self.pusher, count = self.draw, 0
        self.players = {Player(): 1.0, Player(): 2.0}
        self.watched = weakref.ref(next(iter(self.players)))
        self.by_name = OrderedDict((name, player) for name, player in zip("ab", self.players, strict=True))

        def tally():
            nonlocal count
            count += 1
            return count

        self.tally = tally
        return seen

    def draw(self):
        return self.rng.normal(size=2)

    def push(self):
        watched = self.watched()
        watched.seen += self.tally()
        return self.pusher() + watched.seen + self.memory.sum() + self.reversed[0] + self.players[self.by_name["a"]]


class Player:
    """Known by its identity."""

    seen = 0


class Drawn(Walk):
    """Observes a picture into which it goes on drawing, and writes on it through a part of it."""

    def __init__(self):
        super().__init__()
        pygame = pytest.importorskip("pygame")
        pygame.font.init()
        self.screen, self.font, self.clock = pygame.Surface((8, 8)), pygame.font.Font(None, 10), pygame.time.Clock()
        self.part = self.screen.subsurface((2, 2, 4, 4))
        self.mark = pygame.Rect(0, 0, 1, 1)
        self.colour, self.mask = pygame.Color(9, 9, 9), pygame.mask.Mask((2, 2), fill=True)

    def push(self):
        self.part.set_at((self.t % 4, self.t // 4), (self.t, 5, 7))
        self.mark.x += 1
        return self.screen.get_at((2 + self.t % 4, 2 + self.t // 4))[0] + self.mark.x


def test_a_copy_has_the_same_future_and_neither_moves_the_other():
    found = check_copy(Walk)
    assert (found.exact, found.reason) == (True, "")
    assert (found.taken_at, found.steps) == (2, 6 + 10)
    assert found.seconds is not None


@pytest.mark.parametrize("maker", [Pickled, Sharing, FromTheSpace, Aliased, Drawn], ids=lambda maker: maker.__name__)
def test_what_a_class_says_about_copying_itself_is_not_needed(maker):
    assert check_copy(maker).reason == ""


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (GloballyRandom, "it draws from numpy's global generator, of which a copy cannot have its own"),
        (PythonsRandom, "it draws from the global generator of Python's random module, of which a copy cannot have its own"),
        (TorchsRandom, "it draws from torch's global generator, of which a copy cannot have its own"),
        (Unseeded, "the reward of a differs at step 1 after the copy was taken"),
        (KeptByClass, "KeptByClass.pushes of the copy changes while only the original is stepped"),
        (Generating, "env.stream is a generator and has no copy (cannot pickle 'generator' object)"),
        (Locked, "env.tools['lock'] is a lock and has no copy (cannot pickle '_thread.lock' object)"),
        (Threaded, "env.helpers[0] is a thread"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_an_environment_that_cannot_be_copied_is_refused_and_the_part_is_named(maker, reason):
    found = check_copy(maker)
    assert not found.exact
    assert found.reason == reason


def test_a_copy_that_lost_its_state_is_found_out_and_so_is_one_that_shares_it():
    lost = check_copy(Pickled, copier=copy.deepcopy)
    assert lost.reason == "env.place is not the same in the copy"
    shared = check_copy(Sharing, copier=copy.deepcopy)
    assert shared.reason == "env.place is one object in the environment and its copy"
    assert check_copy(Walk, copier=lambda env: env).reason == "env is one object in the environment and its copy"


def test_a_copy_that_only_looks_right_is_found_out_by_its_future_or_by_its_streams():
    def without_stream(env):
        made = copy_env(env)
        made.rng.bit_generator.state = np.random.default_rng(1).bit_generator.state
        return made

    found = check_copy(Walk, copier=without_stream)
    assert found.reason.startswith("env.rng.bit_generator.state")

    def detached_view(env):
        made = copy_env(env)
        made.place = made.place.copy()
        return made

    assert check_copy(Aliased, copier=detached_view).reason == "env.place.base is not the same in the copy"


def test_what_the_environment_raises_after_it_was_copied_is_the_reason():
    class Fragile(Walk):
        def see(self):
            if getattr(self, "is_copy", False):
                raise RuntimeError("no world")
            return super().see()

    def spoil(env):
        made = copy_env(env)
        type(made).is_copy = property(lambda self: self is made)
        return made

    assert check_copy(Fragile, copier=spoil).reason == "it fails while it takes step 1 as a copy (RuntimeError: no world)"


def test_a_class_that_fails_when_it_is_made_anew_is_named():
    class Native(list):
        def __setstate__(self, state):
            raise RuntimeError("no such handle")

    class Handled(Walk):
        def __init__(self):
            super().__init__()
            self.world = {"body": Native()}
            self.world["body"].mass = 1

    reason = "env.world['body'] fails while it is given its state (RuntimeError: no such handle)"
    assert check_copy(Handled).reason == reason


def test_the_check_leaves_the_generators_of_the_process_where_they_stood():
    before = global_streams()
    check_copy(GloballyRandom)
    check_copy(PythonsRandom)
    assert moved_stream(before) == ""


def test_an_environment_in_hand_can_be_checked_too():
    assert check_copy(Walk(), steps=3).steps == 6


def test_parts_have_the_shortest_path_and_name_what_is_one_object():
    env = Walk()
    env.reset(seed=0)
    env.twice = [env.place, env.place]
    paths = [part.path for part in parts_of(env)]
    assert {"env.place", "env.twice[1]", "env.choices['a'].n", "Walk.length"} <= {*paths}
    twin = copy_env(env)
    assert difference(parts_of(env), parts_of(twin)) == ""
    assert shared_part(parts_of(env), parts_of(twin)) == ""
    twin.twice[1] = twin.place.copy()
    assert difference(parts_of(env), parts_of(twin)) == "env.twice[1]"
    twin.twice[1] = env.place
    assert shared_part(parts_of(env), parts_of(twin)) == "env.twice[1]"


class Slotted:
    __slots__ = ("__hidden", "later", "value")

    def __init__(self, value):
        self.value, self.__hidden = value, [value]

    def hidden(self):
        return self.__hidden


class Hashed:
    """A key whose hash asks for its own attributes, in a ring of references."""

    def __init__(self, name):
        self.table = {self: name} if name is None else {}
        self.name = name
        self.table = {self: [name]}

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return self.name == other.name


class Listed(list):
    """A list with something of its own."""


def test_python_objects_of_every_sort_are_copied_deep():
    base = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    listed = Listed([1, [2]])
    listed.own = [3]
    held = {
        "slots": Slotted([1]),
        "hashed": Hashed("x"),
        "deque": deque([[1], 2], maxlen=5),
        "default": defaultdict(list, {"a": [1]}),
        "listed": listed,
        "ring": [],
        "tuple": ([1], (2, 3)),
        "set": {1, 2, "x"},
        "fortran": (base, base[1:, ::2], base.T[1]),
        "objects": np.array([[1], None, "x"], dtype=object),
        "stream": random.Random(3),
        "old_stream": np.random.RandomState(3),
        "torch": (torch.arange(6.0), torch.Generator().manual_seed(4)),
        "iterator": iter([1, [2]]),
    }
    held["ring"].append((held["ring"], 1))
    twin = copy_env(held)
    assert difference(parts_of(held), parts_of(twin)) == ""
    assert shared_part(parts_of(held), parts_of(twin)) == ""
    assert twin["hashed"].table[Hashed("x")] == ["x"]
    assert twin["slots"].hidden() == [[1]]
    assert twin["slots"].hidden()[0] is twin["slots"].value
    assert (twin["deque"].maxlen, twin["default"]["b"], twin["listed"].own) == (5, [], [3])
    twin["fortran"][0][:] = -1.0
    assert (twin["fortran"][1] == -1).all()
    assert (twin["fortran"][2] == -1).all()
    assert (base >= 0).all()
    assert twin["stream"].random() == held["stream"].random()
    assert [next(twin["iterator"]), next(twin["iterator"])] == [1, [2]]


def test_only_classes_made_by_a_class_statement_are_taken_by_their_attributes():
    assert is_plain(Walk)
    assert is_plain(Slotted)
    assert not is_plain(Listed)
    assert not is_plain(random.Random)
    assert not is_plain(type(threading.Lock()))
    assert not is_plain(np.ndarray)


def test_a_set_that_is_gone_through_in_another_order_is_refused():
    class Upside:
        """Hashes by its own memory, so a copy lies elsewhere in a set."""

        turn = 0

        def __hash__(self):
            return self.number if self.number < 8 else 15 - self.number

        def __init__(self, number):
            self.number = number

    things = {Upside(number) for number in range(6)}
    assert difference(parts_of(things), parts_of(copy_env(things))) == ""
    Upside.__hash__ = lambda self: 7 - self.number  # a copy is hashed anew
    with pytest.raises(CannotCopy, match="gone through in another order"):
        copy_env(things)


TASKS = ["mpe/simple_spread", "mpe/simple_speaker_listener", "lbf/8x8-2p-3f", "rware/tiny-2ag"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", TASKS)
def test_the_packages_small_tasks_are_copied_exactly(task):
    pytest.importorskip({"mpe": "mpe2", "lbf": "lbforaging", "rware": "rware"}[task.split("/")[0]])
    assert check_copy(make(task).maker).reason == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrapped_environments_are_copied_with_what_their_wrappers_remember():
    supersuit = pytest.importorskip("supersuit", exc_type=ImportError)
    wrapped = [
        lambda: supersuit.frame_stack_v1(Walk(), 3),
        lambda: supersuit.sticky_actions_v0(supersuit.pad_observations_v0(Walk()), 0.5),
        lambda: parallel_to_aec_and_back(Walk()),
    ]
    assert [check_copy(maker).reason for maker in wrapped] == ["", "", ""]


def parallel_to_aec_and_back(env: ParallelEnv) -> ParallelEnv:
    return aec_to_parallel_wrapper(parallel_to_aec(env))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_deepcopy_of_a_particle_task_loses_where_its_agents_stand():
    pytest.importorskip("mpe2")
    maker = make("mpe/simple_spread").maker
    env = maker()
    env.reset(seed=1)
    places = [agent.state.p_pos.copy() for agent in env.unwrapped.world.agents]
    assert not np.array_equal([agent.state.p_pos for agent in copy.deepcopy(env).unwrapped.world.agents], places)
    assert np.array_equal([agent.state.p_pos for agent in copy_env(env).unwrapped.world.agents], places)
    assert not check_copy(maker, copier=copy.deepcopy).exact
    paths = {part.path for part in parts_of(env)}
    assert "env.unwrapped.world.agents[0].state._p_pos" in paths


def futures(env: PettingZooTeam, *, steps: int, more: int, rows: list[int], later: bool) -> list[torch.Tensor]:
    """Play 3 copies at random, select `rows` (`later`: when the environments have moved on), play those on; all that is seen."""
    clock = Clock.start(torch.arange(3))
    state, view = env.reset(clock.seed)
    for _ in range(steps):
        state, _, view = env.step(state, uniform_policy(view.available, clock.key(EXPLORE)))
        clock = clock.tick()
    if later:
        env.step(state, view.available.to(torch.int8).argmax(-1))
    forks, seen = env.select(state, torch.tensor(rows)), []
    available, clock = view.available[rows], Clock.start(torch.arange(len(rows)))
    for _ in range(more):
        forks, step, view = env.step(forks, uniform_policy(available, clock.key(EXPLORE)))
        seen += [step.reward, step.terminated, step.truncated, *vars(step.after).values(), *vars(view).values()]
        available, clock = view.available, clock.tick()
    return seen


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("later", [False, True], ids=["standing", "moved on"])
@pytest.mark.parametrize("task", ["mpe/simple_spread", "lbf/5x5-2p-1f", "rware/tiny-2ag"])
def test_selecting_by_copy_equals_selecting_by_replay_number_for_number(task, later):
    pytest.importorskip({"mpe": "mpe2", "lbf": "lbforaging", "rware": "rware"}[task.split("/")[0]])
    copied, replayed = make(task), make(task)
    replayed.__dict__["copy_check"] = CopyCheck(False, "asked to replay", None, 0, 0)
    assert copied.copy_check.exact
    run = {"steps": 9, "more": 20, "rows": [2, 0, 2, 1], "later": later}  # spread: into the next episode
    for mine, its in zip(futures(copied, **run), futures(replayed, **run), strict=True):
        assert torch.equal(mine, its)


def counted(base: type[Walk]) -> tuple[PettingZooTeam, list[str]]:
    """A task, and what is called in its environments: "made", "reset"."""
    calls: list[str] = []

    class Counted(base):
        def __init__(self):
            super().__init__()
            calls.append("made")

        def reset(self, seed=None, options=None):
            calls.append("reset")
            return super().reset(seed=seed)

    return PettingZooTeam(Counted, name="counted"), calls


def stay(count: int) -> torch.Tensor:
    return torch.ones(count, 2, dtype=torch.int64)


def test_a_standing_environment_is_copied_without_a_reset_and_one_that_moved_on_is_replayed_once():
    env, calls = counted(Walk)
    state, _ = env.reset(torch.arange(2))
    state, _, _ = env.step(state, stay(2))
    assert env.copy_check.exact
    calls.clear()
    forks = env.select(state, torch.tensor([0, 1, 1]))
    assert calls == []
    assert len({lease.slot for lease in (*state.leases, *forks.leases)}) == 5
    env.step(state, stay(2))
    again = env.select(state, torch.tensor([1, 1, 1]))
    assert calls.count("reset") == 1
    env.step(state, 2 * stay(2))
    here, there = (env.step(handle, stay(3))[1].after.obs for handle in (forks, again))
    assert torch.equal(here[1], there[0])
    assert torch.equal(there[0], there[2])


def test_what_cannot_be_copied_is_replayed_and_the_test_is_made_once():
    env, calls = counted(Generating)
    state, _ = env.reset(torch.arange(1))
    state, _, _ = env.step(state, stay(1))
    assert env.copy_check.reason.startswith("env.stream is a generator")
    assert env.copy_check is env.copy_check
    calls.clear()
    forks = env.select(state, torch.tensor([0, 0]))
    assert calls.count("reset") == 2
    plain, moved = env.step(state, stay(1))[1], env.step(forks, stay(2))[1]
    assert torch.equal(plain.after.obs[0], moved.after.obs[1])


def test_a_part_without_a_copy_that_the_test_did_not_meet_leads_to_a_replay():
    class Late(Walk):
        """Holds something in a step that the test does not reach."""

        length = 60

        def push(self):
            self.stream = (number for number in ()) if self.t > 50 else None
            return self.rng.normal(size=2)

    env, calls = counted(Late)
    state, _ = env.reset(torch.arange(1))
    for _ in range(51):
        state, _, _ = env.step(state, stay(1))
    assert env.copy_check.exact
    calls.clear()
    forks = env.select(state, torch.tensor([0]))
    assert calls.count("reset") == 1
    assert torch.equal(env.step(forks, stay(1))[1].after.obs, env.step(state, stay(1))[1].after.obs)


def test_a_task_with_luck_of_its_own_can_be_copied_where_it_could_not_be_replayed():
    class Lucky(Walk):
        def reset(self, seed=None, options=None):
            seen = super().reset(seed=seed)
            self.rng = np.random.default_rng(luck.integers(1 << 30))
            return seen

    luck = np.random.default_rng(0)
    # A reset with one seed starts like any other, so only a replay finds out.
    env = PettingZooTeam(Lucky, name="lucky")
    state, _ = env.reset(torch.arange(1))
    state, _, _ = env.step(state, stay(1))
    assert env.copy_check.exact
    forks = env.select(state, torch.tensor([0]))
    here, there = (env.step(handle, stay(1))[0] for handle in (state, forks))
    assert torch.equal(torch.from_numpy(here.moments[0].view[0]), torch.from_numpy(there.moments[0].view[0]))
    with pytest.raises(ValueError, match="the observations differ"):
        env.load(env.dump(here))


def test_environments_in_worker_processes_are_replayed():
    env = make("lbf/8x8-2p-3f", workers=1) if pytest.importorskip("lbforaging") else None
    assert not env.copy_check.exact
    assert env.copy_check.reason == "its environments live in worker processes, where they are replayed"
    env.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_physics_engine_that_restores_its_contacts_inexactly_is_refused():
    pytest.importorskip("pymunk")
    found = check_copy(make("butterfly/pistonball-v6").maker)
    assert not found.exact
    assert found.reason.startswith("env.unwrapped.space.")
