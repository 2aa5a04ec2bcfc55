"""Environments in worker processes: the same numbers as in this process, the same errors, and a death that is named."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamEnv
from teamcredit.envs.errors import ContractBroken, WorkerDied
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import POLICY, Clock, choice, copy_seeds, mix_seed, split
from teamcredit.envs.registry import make
from teamcredit.envs.vector import Pipe as vector_pipe
from teamcredit.envs.vector import ProcessCrew

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame.*")

TASKS = '''
import os
import signal
import sys

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Stubborn(Exception):
    """Pickles, and cannot be made again from what was pickled."""

    def __init__(self, one, other):
        super().__init__(f"{one} {other}")


class Odd(ParallelEnv):
    """Images, unequal action counts, masks, deaths, a state of its own, ends of both kinds; some of a's actions break things."""

    metadata = {"name": "odd"}
    possible_agents = ["a", "b", "c"]

    def __init__(self, fragile=False):
        self.actions = {"a": Discrete(9 if fragile else 3), "b": Discrete(3), "c": Discrete(4)}
        self.image = Box(0, 255, (3, 3, 2), np.uint8)

    def observation_space(self, agent):
        return self.image

    def action_space(self, agent):
        return self.actions[agent]

    def state(self):
        return np.array([self.time, self.luck.integers(1, 9), self.sum], dtype=np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.time, self.sum = list(self.possible_agents), 0, 0
        self.luck = np.random.default_rng(seed)
        self.death, self.end = self.luck.integers(1, 9), self.luck.integers(5, 12)
        return self.seen()

    def seen(self):
        masks = {agent: np.ones(int(self.actions[agent].n), np.int8) for agent in self.agents}
        for mask in masks.values():
            mask[self.time % 2] = 0
        views = {agent: self.luck.integers(0, 256, (3, 3, 2)).astype(np.uint8) for agent in self.agents}
        return views, {agent: {"action_mask": mask} for agent, mask in masks.items()}

    def step(self, actions):
        self.time += 1
        self.sum += sum(actions.values())
        odd = actions.get("a", 0)
        if odd == 4:
            raise ValueError("the door is stuck")
        if odd == 5:
            class Local(KeyError):
                pass
            raise Local("no such room")
        if odd == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        if odd == 7:
            sys.exit(3)
        if odd == 8:
            raise ValueError(Stubborn("a", "b"))
        views, infos = self.seen()
        acted, over = self.agents, self.time == self.end
        rewards = dict.fromkeys(acted, float("nan") if odd == 3 else float(self.luck.normal() + self.sum))
        dead = {agent: agent == "b" and self.time == self.death for agent in acted}
        solved = over and self.end % 2 == 0
        self.agents = [] if over else [agent for agent in acted if not dead[agent]]
        cut = dict.fromkeys(acted, over and not solved)
        return views, rewards, {agent: dead[agent] or solved for agent in acted}, cut, infos


def odd(): return Odd()
def fragile(): return Odd(fragile=True)


def talks():
    print("a word on standard output")
    return Odd()


class Hangs(Odd):
    def step(self, actions):
        import time
        open("hangs", "w").close()
        time.sleep(600)


def hangs(): return Hangs()
'''


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the module of the tasks above, on the path of this process."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "worker_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def apart() -> Iterator[PettingZooTeam]:
    """Two workers, shared by the tests that leave them sound."""
    env = make("worker_tasks:fragile", workers=2)
    yield env
    env.close()


def pids(env: PettingZooTeam) -> list[int]:
    crew = env.episodes.crew
    assert isinstance(crew, ProcessCrew)
    return [worker.process.pid for worker in crew._workers.values()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_end(processes: list[int], *, within: float) -> bool:
    end = time.monotonic() + within
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, processes))


def random_action(available: torch.Tensor, clock: Clock) -> torch.Tensor:
    return choice(split(clock.key(POLICY), available.shape[1]), available & (torch.arange(available.shape[2]) < 3))


def everything(step: Any, view: Any) -> list[torch.Tensor]:
    views = [getattr(one, name) for one in (step.after, view) for name in ("obs", "state", "available", "alive")]
    return [step.reward, step.agent_reward, step.terminated, step.truncated, *views]


def play(env: TeamEnv, copies: int, steps: int, *, autoreset: bool = True, seed: int = 7) -> tuple[list[torch.Tensor], Any]:
    """All that is seen in `steps` steps of random available actions, then the last handle."""
    seeds = copy_seeds(seed, copies)
    state, view = env.reset(seeds)
    clock, seen = Clock.start(seeds), [view.obs, view.state, view.available, view.alive]
    for _ in range(steps):
        state, step, view = env.step(state, random_action(view.available, clock), autoreset=autoreset)
        clock = clock.tick(step.terminated | step.truncated if autoreset else None)
        seen += everything(step, view)
    return seen, state


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def assert_plays_alike(here: TeamEnv, there: TeamEnv, copies: int, steps: int) -> None:
    (mine, state), (theirs, their_state) = play(here, copies, steps), play(there, copies, steps)
    assert_same(mine, theirs)
    assert_same(list(here.dump(state).tensors.values()), list(there.dump(their_state).tensors.values()))


@pytest.mark.parametrize("autoreset", [True, False])
def test_rollouts_in_two_workers_are_those_of_this_process(apart, autoreset):
    mine, theirs = (play(env, 8, 25, autoreset=autoreset)[0] for env in (make("worker_tasks:fragile"), apart))
    assert_same(mine, theirs)
    deaths, ends = (theirs[11::12], theirs[6::12])  # alive before the reset, terminated
    assert not all(bool(one.all()) for one in deaths)
    assert any(bool(one.any()) for one in ends)
    assert theirs[0].dtype == torch.uint8


@pytest.mark.parametrize("copies", [1, 3, 40])
def test_fewer_copies_than_workers_and_more_than_the_shared_memory_was_laid_out_for_change_nothing(apart, copies):
    assert_plays_alike(make("worker_tasks:fragile"), apart, copies, 6)


def test_a_copy_does_not_depend_on_those_beside_it(apart):
    together, alone = play(apart, 4, 12)[0], play(apart, 1, 12)[0]
    assert_same([one[:1] for one in together], alone)


def test_saved_states_go_from_workers_to_this_process_and_back(apart):
    here = make("worker_tasks:fragile")
    _, mine = play(here, 3, 17)
    _, theirs = play(apart, 3, 17)
    action = torch.full((3, 3), 2)
    expected = everything(*here.step(mine, action)[1:])
    assert_same(expected, everything(*apart.step(theirs, action)[1:]))
    for saving, state, loading in ((here, mine, apart), (apart, theirs, here)):
        loaded = loading.load(saving.dump(state))
        assert_same(expected, everything(*loading.step(loaded, action)[1:]))


def test_copies_are_forked_and_handles_stepped_twice_in_workers(apart):
    _, state = play(apart, 3, 9)
    action = torch.full((3, 3), 2)
    expected = everything(*apart.step(state, action)[1:])
    forks = apart.select(state, torch.tensor([2, 0, 2]))
    assert_same([one[[2, 0, 2]] for one in expected], everything(*apart.step(forks, action)[1:]))
    assert_same(expected, everything(*apart.step(state, action)[1:]))


def test_what_was_handed_out_is_never_written_again(apart):
    state, view = apart.reset(copy_seeds(3, 4))
    kept = view.obs.clone(), view.state.clone()
    play(apart, 4, 5)
    apart.step(state, torch.full((4, 3), 2))
    assert torch.equal(view.obs, kept[0])
    assert torch.equal(view.state, kept[1])


def test_copies_are_spread_evenly_and_slots_are_used_again(apart):
    gc.collect()
    crew = apart.episodes.crew
    for _ in range(3):
        state, _ = apart.reset(copy_seeds(1, 6))
        assert [lease.slot % 2 for lease in state.leases] == [0, 1, 0, 1, 0, 1]
        del state
    new = crew._slots
    play(apart, 6, 3)
    assert crew._slots == new


def test_a_copy_in_a_worker_is_shown_by_an_environment_of_this_process(apart):
    here = make("worker_tasks:fragile")
    state, view = apart.reset(copy_seeds(2, 2))
    shown = set()
    for _ in range(9):
        state, _, view = apart.step(state, torch.where(view.available[..., 0], 0, 1))
        mine = here.load(apart.dump(state))
        live = apart.live(state, 1)
        assert (live.time, live.sum) == (here.live(mine, 1).time, here.live(mine, 1).sum)
        shown.add(id(live))
    assert len(shown) == 1  # one environment goes along with the copy


@pytest.mark.parametrize(
    "odd, cls, sentence",
    [
        (3, ContractBroken, "reward-number: the reward of a at step 1 is nan, not a finite number"),
        (4, ValueError, "the door is stuck"),
        (5, KeyError, "'no such room'"),
        (8, ValueError, "a b"),
    ],
)
def test_what_an_environment_raises_in_a_worker_is_raised_here(apart, odd, cls, sentence):
    state, _ = apart.reset(copy_seeds(1, 3))
    action = torch.tensor([[2, 2, 2], [2, 2, 2], [odd, 2, 2]])
    with pytest.raises((cls, RuntimeError)) as caught:
        apart.step(state, action)
    # A class made inside a function cannot be found from here, nor may an object in the arguments be made again; the name is kept.
    name = {5: "Local", 8: "ValueError"}.get(odd)
    assert (type(caught.value), str(caught.value)) == ((RuntimeError, f"{name}: {sentence}") if name else (cls, sentence))
    assert "Raised in worker 1 of 2" in caught.value.__notes__[0]
    assert "live.py" in caught.value.__notes__[0]
    if odd == 3:
        assert (caught.value.rule, caught.value.kind) == ("reward-number", "environment-contract")
    # The handle is as good as before: the copies that had moved, and the one that failed, are replayed.
    fine = torch.full((3, 3), 2)
    here = make("worker_tasks:fragile")
    assert_same(everything(*here.step(here.reset(copy_seeds(1, 3))[0], fine)[1:]), everything(*apart.step(state, fine)[1:]))


def test_of_several_failures_the_first_copys_is_raised_as_in_one_process(apart):
    action = torch.tensor([[2, 2, 2], [4, 2, 2], [3, 2, 2]])  # copy 2 is in the first worker, which answers first
    for env in (make("worker_tasks:fragile"), apart):
        state, _ = env.reset(copy_seeds(1, 3))
        with pytest.raises(ValueError, match="the door is stuck"):
            env.step(state, action)


def test_a_replay_that_sees_something_else_is_refused_from_workers_too(apart):
    _, state = play(apart, 2, 3)
    saved = apart.dump(state)
    saved.tensors["obs"][1, 0, 0] += 1
    seed, episode = int(saved.tensors["seed"][1]), int(saved.tensors["episode"][1])
    with pytest.raises(ValueError, match=f"replaying episode {episode} of copy seed {seed} to step 3, the observations differ"):
        apart.load(saved)


def test_an_interrupted_step_leaves_no_answer_that_a_later_one_could_take_for_its_own(apart, monkeypatch):
    state, _ = apart.reset(copy_seeds(4, 4))
    worker = next(iter(apart.episodes.crew._workers.values()))

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(worker), "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            apart.step(state, torch.full((4, 3), 2))
    here = make("worker_tasks:fragile")
    mine, _ = here.reset(copy_seeds(4, 4))
    action = torch.tensor([[2, 2, 2], [2, 1, 1], [0, 2, 2], [2, 2, 3]])
    assert_same(everything(*here.step(mine, action)[1:]), everything(*apart.step(state, action)[1:]))


def test_a_worker_that_dies_is_named_with_what_it_was_doing_and_its_copies_can_be_gone_on_with():
    env = make("worker_tasks:fragile", workers=1)
    state, _ = env.reset(copy_seeds(1, 3))
    state, _, _ = env.step(state, torch.full((3, 3), 2))
    (pid,) = pids(env)
    with pytest.raises(WorkerDied) as caught:
        env.step(state, torch.tensor([[2, 2, 2], [6, 2, 2], [2, 2, 2]]))
    seed = int(copy_seeds(1, 3)[1])
    told = f"copy 1 (seed {seed}, episode 0, reset(seed={mix_seed(seed, 0)}), env step 1); with it went copy 0 (seed "
    died = f"worker_tasks:fragile: worker 1 of 1 (process {pid}) was killed by SIGKILL while it moved {told}"
    assert str(caught.value).startswith(died)
    assert "memory" in caught.value.remedy
    assert env.dump(state).tensors["step"].tolist() == [1, 1, 1]  # no worker is needed to save
    here = make("worker_tasks:fragile")
    mine = here.load(env.dump(state))
    fine = torch.full((3, 3), 2)
    assert_same(everything(*here.step(mine, fine)[1:]), everything(*env.step(state, fine)[1:]))
    (other,) = pids(env)
    os.kill(other, signal.SIGTERM)  # is for the parent, which may be saving
    state, _ = env.reset(copy_seeds(1, 3))
    os.kill(other, signal.SIGKILL)
    assert all_end([other], within=5)
    with pytest.raises(WorkerDied, match=r"killed by SIGKILL before it could move copy 0 \(seed .*copy 2 \(seed"):
        env.step(state, fine)


@pytest.mark.slow
def test_workers_end_when_the_environment_is_closed_or_garbage():
    env = make("worker_tasks:odd", workers=1)
    before, state = play(env, 1, 3)
    first = pids(env)
    env.close()
    env.close()
    assert not any(map(alive, first))
    assert_same(before, play(env, 1, 3)[0])
    env.step(state, torch.full((1, 3), 2))  # replayed in the new worker
    second = pids(env)
    assert second != first
    del env, state
    gc.collect()
    assert not any(map(alive, second))


class Unsendable:
    def __reduce__(self):
        raise TypeError("cannot be pickled")


@pytest.mark.parametrize(
    "task, options, sentence",
    [
        ("native/spread", {}, "native/spread is stepped as tensors in this process; leave out --workers"),
        ("worker_tasks:odd", {"workers": -1}, "workers -1 must be at least 1, or 0"),
        ("worker_tasks:Odd", {"fragile": Unsendable()}, "option fragile of worker_tasks:Odd cannot be sent to a worker process"),
    ],
)
def test_what_cannot_be_stepped_in_workers_is_refused_with_the_reason(task, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(task, **{"workers": 2, **options})


def test_a_maker_goes_to_workers_by_its_name_and_one_without_a_name_is_refused():
    import worker_tasks  # pyright: ignore[reportMissingImports]

    assert make(worker_tasks.odd, workers=2).episodes.crew.task == "worker_tasks:odd"
    with pytest.raises(ValueError, match=r"cannot be found again by another process"):
        make(lambda: worker_tasks.odd(), workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    "task, copies, steps",
    [
        ("worker_tasks:odd", 4, 60),
        ("mpe/simple_spread", 2, 60),
        ("lbf/8x8-2p-3f", 4, 60),
        ("sisl/pursuit-v5", 2, 10),
        ("butterfly/knights_archers_zombies-v11", 2, 200),
    ],
)
def test_rollouts_of_published_environments_are_the_same_in_workers(task, copies, steps, workers):
    there = make(task, workers=workers)
    assert_plays_alike(make(task), there, copies, steps)
    there.close()


def test_a_worker_that_is_gone_before_it_was_told_anything_is_named_too(monkeypatch):
    monkeypatch.setattr("teamcredit.envs.vector.BOOT", "raise SystemExit(3)")
    monkeypatch.setattr("teamcredit.envs.vector.Pipe", _closing_pipe)
    with pytest.raises(WorkerDied, match=r"worker 1 of 1 .* 3"):
        make("lbf/8x8-2p-3f", workers=1).reset(torch.arange(2))


def _closing_pipe():
    """A pipe to a process that ends at once: what is sent meets a closed end."""
    ours, theirs = vector_pipe()
    send = ours.send

    def slowly(message):
        time.sleep(0.3)
        send(message)

    ours.send = slowly
    return ours, theirs


@pytest.mark.slow
def test_an_environment_that_ends_its_process_is_told_with_the_exit_code():
    env = make("worker_tasks:fragile", workers=2)
    state, _ = env.reset(copy_seeds(1, 2))
    with pytest.raises(WorkerDied, match=r"worker 2 of 2 \(process \d+\) ended by itself with exit code 3 while it moved copy 1") as caught:
        env.step(state, torch.tensor([[2, 2, 2], [7, 2, 2]]))
    assert "--workers 0" in caught.value.remedy


@pytest.mark.slow
def test_a_task_that_fails_to_be_made_in_a_worker_says_why(tasks, monkeypatch):
    env = make("worker_tasks:odd", workers=1)
    monkeypatch.setattr("teamcredit.envs.vector.sys.path", [path for path in sys.path if path != str(tasks)])
    with pytest.raises(ValueError, match='no module "worker_tasks"') as caught:
        env.reset(torch.arange(1))
    assert caught.value.kind == "unknown-environment"
    assert pids(env) == []


ORPHANS = """
import os, sys
sys.path.insert(0, os.getcwd())
import torch
from teamcredit.envs.registry import make
env = make("worker_tasks:{task}", workers=2)
state, _ = env.reset(torch.arange(4))
print([worker.process.pid for worker in env.episodes.crew._workers.values()], flush=True)
{then}
"""


def run_script(folder: Path, task: str, then: str) -> subprocess.Popen[str]:
    """A script without `if __name__ == "__main__"`, as people write them."""
    (folder / "script.py").write_text(ORPHANS.format(task=task, then=then))
    return subprocess.Popen([sys.executable, "script.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_unguarded_script_runs_once_and_what_workers_print_stays_off_its_output(tasks):
    out, err = run_script(tasks, "talks", "").communicate(timeout=120)
    assert out.count("[") == 1, err
    assert out.count("a word") == 1  # the first environment, made in the script's own process
    assert err.count("a word") == 4  # one for each slot
    assert not any(map(alive, eval(out.splitlines()[-1])))


@pytest.mark.slow
@pytest.mark.parametrize("then", ["os.kill(os.getpid(), 9)", "env.step(state, torch.full((4, 3), 2))"])
def test_workers_end_with_the_process_that_started_them_even_while_an_environment_hangs(tasks, then):
    script = run_script(tasks, "hangs", then)
    assert script.stdout is not None
    workers = eval(script.stdout.readline())
    if "step" in then:
        end = time.monotonic() + 20
        while not (tasks / "hangs").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert all(map(alive, workers))
        script.kill()
    assert all_end(workers, within=10)
    script.communicate()
