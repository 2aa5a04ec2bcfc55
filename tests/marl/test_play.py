"""`marl play`: the film shows the episode that evaluation counts, marks every agent, and is written whole or not at all."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from teamcredit.envs.errors import CannotRender
from teamcredit.envs.picture import COLOURS, Picture, Place, colour_of
from teamcredit.envs.spread import Spread
from teamcredit.marl import film as films
from teamcredit.marl.errors import BlankFrame, ConfigError, DiskError
from teamcredit.marl.evaluate import EVALUATION_SEEDS, evaluate
from teamcredit.marl.film import Reel, write_film
from teamcredit.marl.overlay import Cast, Moment, compose, same_size
from teamcredit.marl.play import frames, moments, play, without_display
from teamcredit.marl.run import load, train

TINY = {"evaluation.episodes": 2, "evaluation.final_episodes": 2, "evaluation.every": 0, "rollout_steps": 32}
OWN_TASKS = '''
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Door(ParallelEnv):
    """Two agents, four steps; the frame shows the time, and nothing at all from step `blank_at` on."""

    metadata = {"name": "door", "render_modes": ["rgb_array"]}
    possible_agents = ["left", "right"]

    def __init__(self, render_mode=None, blank_at=99):
        self.render_mode, self.blank_at = render_mode, blank_at
        self.spaces = Box(-1, 1, (2,)), Discrete(2)

    def observation_space(self, agent):
        return self.spaces[0]

    def action_space(self, agent):
        return self.spaces[1]

    def seen(self):
        return {agent: np.full(2, self.time / 5, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        over = dict.fromkeys(self.agents, self.time == 4)
        rewards, infos = dict.fromkeys(self.agents, 1.0), {agent: {} for agent in self.agents}
        self.agents = [] if self.time == 4 else self.agents
        return self.seen(), rewards, over, dict.fromkeys(over, False), infos

    def render(self):
        if self.render_mode is None:
            return None
        frame = np.full((30, 40, 3), 200, np.uint8)
        if self.time < self.blank_at:
            frame[:, : 1 + self.time] = 0
        return frame


def door(render_mode=None): return Door(render_mode)
def blind(): return Door()
def failing(render_mode=None): return Door(render_mode, blank_at=3)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs of three own tasks and of native spread, where one agent is planted."""
    folder = tmp_path_factory.mktemp("played")
    (folder / "drawn_tasks.py").write_text(OWN_TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARL_RUNS", str(folder / "runs"))
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        planted = {"members": "agent_2=random"}
        train("native/spread", algo="vdn", steps=64, options=TINY | planted | {"learner.lr": 0.05}, out=folder / "spread")
        train("native/spread-20", algo="vdn", steps=64, options=TINY, out=folder / "twenty")
        for name in ("door", "blind", "failing"):
            train(f"drawn_tasks:{name}", algo="vdn", steps=64, options=TINY, out=folder / name)
    return folder


@pytest.fixture
def here(place, monkeypatch, tmp_path):
    monkeypatch.setenv("MARL_RUNS", str(place / "runs"))
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(tmp_path)
    return place


# What is shown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.webp", "a.gif"])
def test_a_film_has_a_picture_of_the_start_and_one_per_env_step(here, name):
    film = play(load(here / "spread"), name)
    with Image.open(name) as picture:
        assert picture.n_frames == film.frames == film.env_steps + 1 == 26
    assert film.size_bytes == os.path.getsize(name)
    assert film.end == "truncated"


@pytest.mark.parametrize("episode", [0, 2])
def test_the_return_is_the_one_evaluation_counts_for_that_episode(here, episode):
    run = load(here / "spread")
    film = play(run, "a.png", episode=episode)
    assert film.team_return == pytest.approx(evaluate(run, episodes=3).returns[episode], rel=1e-6)
    assert film.seed == EVALUATION_SEEDS + episode
    alone = evaluate(run, seeds=[film.seed])
    assert film.team_return == alone.returns[0]
    assert film.agent_return == alone.agent_return


def test_a_seed_names_the_episode_that_evaluation_plays_for_it(here):
    run = load(here / "spread")
    assert play(run, "a.png", seed=1234).team_return == evaluate(run, seeds=[1234]).returns[0]


def test_a_film_cut_short_says_so_and_counts_what_it_shows(here):
    run = load(here / "spread")
    shown = [moment for moment, _ in frames(run)]
    film = play(run, "a.webp", steps=7)
    assert (film.frames, film.env_steps, film.end) == (8, 7, "cut")
    assert film.team_return == shown[7].team_return == pytest.approx(sum(moment.reward for moment in shown[:8]))


def test_a_single_picture_is_of_the_step_asked_for_else_of_the_middle(here):
    run = load(here / "door")
    pictures = [image for _, image in frames(run)]
    for steps, index in ((0, 0), (3, 3), (99, 4), (None, 2)):
        film = play(run, "a.png", steps=steps)
        assert film.frames == 1
        with Image.open("a.png") as picture:
            assert picture.tobytes() == pictures[index].tobytes()


def test_each_moment_shows_the_action_that_leads_to_the_next(here):
    shown = [moment for moment, _ in frames(load(here / "door"))]
    assert [moment.step for moment in shown] == [0, 1, 2, 3, 4]
    assert [moment.now is None for moment in shown] == [False] * 4 + [True]
    assert [moment.terminated for moment in shown] == [False] * 4 + [True]
    assert [moment.team_return for moment in shown] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("suffix", ["webp", "gif", "png"])
def test_the_same_episode_gives_the_same_bytes(here, suffix):
    run = load(here / "spread")
    for name in "ab":
        play(run, f"{name}.{suffix}", steps=3)
    assert Path(f"a.{suffix}").read_bytes() == Path(f"b.{suffix}").read_bytes()


def test_without_a_name_the_film_lies_in_the_run_folder(here):
    run = load(here / "door")
    film = play(run)
    assert film.path == run.folder / f"play-step_{run.env_steps}-seed_{EVALUATION_SEEDS}.webp"
    assert film.path.exists()


# Who is who ------------------------------------------------------------------------------------------------------------

CAST = Cast("task", ("a", "b", "c"), {"b": "noop"}, (("stay", "go"),) * 3, 9)


def moment_of(pixels: np.ndarray, places: tuple[Place | None, ...] | None, **changes) -> Moment:
    default = {"step": 1, "now": (0, 1, 1), "alive": (True,) * 3, "reward": 1.0, "team_return": 1.0, "agent_return": None}
    return Moment(picture=Picture(pixels, places), **default | {"terminated": False, "truncated": False} | changes)


def colours_in(image: Image.Image, box: tuple[int, int, int, int]) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.crop(box).getcolors(100_000)}


GREY = np.full((500, 600, 3), 128, np.uint8)
PLACES = (Place(100.0, 100.0, 30.0), None, Place(300.0, 200.0, 5.0))


def test_every_agent_that_is_seen_has_a_mark_of_its_own_colour_around_it_and_nothing_else_is_covered():
    image = compose(moment_of(GREY, PLACES), CAST)
    top = 46
    assert colour_of(0) in colours_in(image, (60, top + 60, 140, top + 140))
    assert colour_of(2) in colours_in(image, (280, top + 180, 320, top + 220))
    assert colour_of(2) not in colours_in(image, (60, top + 60, 140, top + 140))
    assert colours_in(image, (350, top + 10, 590, top + 490)) == {(128, 128, 128)}


def test_the_legend_has_the_colour_of_every_agent(here):
    image = next(iter(frames(load(here / "twenty"))))[1]
    assert {colour_of(i) for i in range(20)} <= colours_in(image, (0, 46 + 480, *image.size))


def test_numbers_of_agents_on_one_spot_do_not_cover_each_other():
    crowd = tuple(Place(300.0, 250.0, 5.0) for _ in range(3))
    alone = [compose(moment_of(GREY, tuple(crowd[i] if i == j else None for j in range(3))), CAST) for i in range(3)]
    together = compose(moment_of(GREY, crowd), CAST)
    # A disc of a number is 9 pixels in radius, some of it ink; the rings lie under each other.
    for i, image in enumerate(alone):
        seen, whole = (
            sum(count for count, colour in where.crop((0, 46, 600, 546)).getcolors(100_000) if colour == colour_of(i))
            for where in (together, image)
        )
        assert seen > 0.4 * whole


def test_a_planted_member_is_named_with_its_policy():
    assert [CAST.name(i) for i in range(3)] == ["a", "b = noop", "c"]


def test_an_action_has_its_name_and_else_its_number():
    assert (CAST.action(0, 1), CAST.action(0, 5)) == ("go", "5")
    assert Cast("task", ("a",), {}, (), None).action(0, 3) == "3"


@pytest.mark.parametrize(
    "changes",
    [
        {"alive": (True, False, True)},
        {"now": (1, 1, 1)},
        {"terminated": True},
        {"truncated": True},
        {"team_return": 2.0},
        {"step": 2},
    ],
)
def test_what_happens_is_said_around_the_picture(changes):
    before, after = (compose(moment_of(GREY, PLACES, **what), CAST) for what in ({}, changes))
    assert before.size == after.size
    assert before.tobytes() != after.tobytes()


def test_large_frames_are_made_smaller_with_their_marks_and_tiny_ones_larger():
    large, small = np.full((900, 1280, 3), 128, np.uint8), np.full((8, 10, 3), 128, np.uint8)
    shrunk = compose(moment_of(large, (Place(1000.0, 400.0, 40.0), None, None)), CAST)
    assert shrunk.width == 640
    assert colour_of(0) in colours_in(shrunk, (475, 46 + 175, 525, 46 + 225))
    grown = compose(moment_of(small, None), CAST)
    assert grown.width == 480
    assert grown.height > 8 * 48
    assert compose(moment_of(large, None), CAST, scale=0.5).height < shrunk.height


def test_a_frame_of_another_size_is_fitted_to_the_film():
    assert same_size(Image.new("RGB", (30, 50)), (100, 80)).size == (100, 80)


# Files -----------------------------------------------------------------------------------------------------------------


def test_a_reel_gives_back_its_pictures_and_keeps_them_small():
    pictures = [Image.new("RGB", (640, 500), colour) for colour in COLOURS]
    reel = Reel(pictures)
    assert [reel.picture(i).tobytes() for i in range(20)] == [picture.tobytes() for picture in pictures]
    assert sum(map(len, reel._packed)) < 0.02 * 20 * 640 * 500 * 3
    with pytest.raises(EOFError):
        reel.seek(20)


def test_a_gif_shows_the_agents_colours_exactly_whatever_else_is_in_the_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    noise[:20, :, :] = np.array(COLOURS, np.uint8).repeat(2, 0)
    pictures = [Image.fromarray(noise), Image.fromarray(noise[:, ::-1].copy())]
    write_film(Reel(pictures), tmp_path / "a.gif", fps=10)
    with Image.open(tmp_path / "a.gif") as film:
        for index, picture in enumerate(pictures):
            film.seek(index)
            assert film.convert("RGB").crop((0, 0, 40, 20)).tobytes() == picture.crop((0, 0, 40, 20)).tobytes()


@pytest.mark.parametrize(
    "name, told",
    [
        ("a.mp4", "MP4 is not offered"),
        ("a.webpp", r'"\.webpp" is no kind of picture. Did you mean \.webp'),
        ("a", '"" is no kind of picture'),
        ("nowhere/a.gif", "no folder nowhere"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_played(here, name, told, monkeypatch):
    monkeypatch.setattr("teamcredit.marl.play.frames", lambda *_, **__: pytest.fail("played"))
    with pytest.raises(ConfigError, match=told):
        play(load(here / "spread"), name)


@pytest.mark.parametrize("bad", [{"fps": 0}, {"fps": 101}, {"scale": 0.1}, {"scale": 5}, {"episode": -1}, {"steps": -1}])
def test_a_number_out_of_bounds_is_refused_by_its_option(here, bad):
    with pytest.raises(ConfigError, match=f"--{next(iter(bad))} "):
        play(load(here / "spread"), "a.gif", **bad)


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png"])
def test_a_disk_that_fills_up_leaves_the_file_as_it_was(here, name, monkeypatch):
    def full(image, file, **options):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path(name).write_bytes(b"the film before")
    monkeypatch.setattr(films.Image.Image, "save", lambda image, file, *form, **options: full(image, file))
    monkeypatch.setattr(films, "_pack", lambda picture: PACKED)
    with pytest.raises(DiskError, match="disk is full"):
        play(load(here / "spread"), name, steps=1)
    assert Path(name).read_bytes() == b"the film before"
    assert os.listdir() == [name]


PACKED = films._pack(Image.new("RGB", (4, 4)))


# Tasks that give no picture ---------------------------------------------------------------------------------------------


def test_a_frame_of_one_colour_is_an_error_that_names_the_step_and_writes_nothing(here, cli):
    with pytest.raises(BlankFrame, match="the frame at step 3 is of one single colour"):
        play(load(here / "failing"), "a.webp")
    assert os.listdir() == []
    code, out, _ = cli("play", str(here / "failing"), "--out", "a.webp", "--json")
    error = json.loads(out)["error"]
    assert (code, error["exit"], error["kind"]) == (4, 4, "blank-frame")
    assert "SDL_VIDEODRIVER" in error["remedy"]


def test_a_task_without_a_picture_is_told_what_to_accept(here, cli):
    with pytest.raises(CannotRender, match="returned None"):
        play(load(here / "blind"), "a.webp")
    code, out, _ = cli("play", str(here / "blind"), "--out", "a.webp", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (2, "cannot-render")
    assert 'render_mode="rgb_array"' in error["remedy"]


def test_where_positions_are_unknown_the_film_is_made_and_says_so(here, cli):
    code, out, _ = cli("play", str(here / "door"), "--out", "a.webp")
    assert code == 0
    assert "where they stand is not known" in out


def test_the_display_is_left_as_it_was_found(monkeypatch):
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setenv("SDL_AUDIODRIVER", "alsa")
    with without_display():
        assert (os.environ["SDL_VIDEODRIVER"], os.environ["SDL_AUDIODRIVER"]) == ("dummy", "alsa")
    assert "SDL_VIDEODRIVER" not in os.environ
    assert os.environ["SDL_AUDIODRIVER"] == "alsa"


# The command -----------------------------------------------------------------------------------------------------------


def test_the_command_prints_one_document_with_these_keys(here, cli):
    code, out, _ = cli("play", str(here / "spread"), "--out", "a.gif", "--steps", "3", "--json")
    document = json.loads(out)
    assert code == 0
    assert set(document) == {
        "schema", "run", "env_steps", "out", "frames", "bytes", "seed",
        "steps", "return", "agent_return", "end", "positions_known",
    }  # fmt: skip
    assert (document["frames"], document["steps"], document["end"], document["positions_known"]) == (4, 3, "cut", True)
    assert document["bytes"] == os.path.getsize("a.gif")


def test_a_film_plays_at_the_speed_asked_for_and_rests_on_its_last_picture(here):
    play(load(here / "spread"), "a.gif", steps=3, fps=5)
    with Image.open("a.gif") as picture:
        durations = []
        for index in range(picture.n_frames):
            picture.seek(index)
            durations.append(picture.info["duration"])
    assert durations == [200, 200, 200, 1000]


def test_the_global_generator_is_not_drawn_from(here):
    before = torch.get_rng_state()
    play(load(here / "spread"), "a.png", steps=3)
    assert torch.equal(before, torch.get_rng_state())


def test_moments_need_a_task_and_a_team_and_no_run_folder(here):
    run = load(here / "spread")
    assert [moment.step for moment in moments(Spread(episode_limit=2), run.team, 5)] == [0, 1, 2]


@pytest.mark.slow
def test_a_team_of_a_packages_task_is_filmed_with_the_return_evaluation_counts(here):
    pytest.importorskip("mpe2")
    run = train("mpe/simple_spread", algo="vdn", steps=64, options=TINY, out=Path("mpe"))
    film = play(run, "a.webp")
    assert film.positions_known
    assert film.team_return == evaluate(run, seeds=[film.seed]).returns[0]


@pytest.mark.slow
def test_a_long_film_with_deaths_is_made_and_earns_what_evaluation_counts(here):
    pytest.importorskip("pygame")
    run = train("butterfly/knights_archers_zombies-v11", algo="vdn", steps=64, options=TINY, out=Path("kaz"))
    film = play(run, "a.gif")
    assert film.env_steps > 100
    assert film.team_return == evaluate(run, seeds=[film.seed]).returns[0]
