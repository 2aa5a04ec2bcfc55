"""The command that shows a trained team: one episode as a film."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_errors import OK
from .cli_options import NO_COMMON, CommonOptions, Output
from .cli_output import number

if TYPE_CHECKING:
    from .play import Film
    from .run import Run


def play(
    run: str,
    /,
    *,
    out: Path | None = None,
    episode: int = 0,
    seed: int | None = None,
    steps: int | None = None,
    fps: float = 10.0,
    scale: float = 1.0,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Play one episode, without a display, and write it as a film with every agent marked.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    out
        FILE.webp or FILE.gif; FILE.png is one picture: after --steps N, else from the middle. Default: a .webp in the run folder.
    episode
        Which of the episodes of marl eval, from 0; its return is the same there.
    seed
        The episode's seed instead, as in marl eval --seeds.
    steps
        Cut after this many env steps. Default: 1,000.
    fps
        Pictures a second.
    scale
        Of the pictures' size.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .play import play as make_film
    from .run import load

    opened = load(run)
    film = make_film(opened, out, episode=episode, seed=seed, steps=steps, fps=fps, scale=scale)
    document = film_document(opened, film)
    screen.say(f"{opened.folder} at {opened.env_steps:,} env steps, episode seed {film.seed}")
    screen.result(film_text(film))
    screen.document(document)
    return OK


def film_document(run: "Run", film: "Film") -> dict[str, Any]:
    """`marl play --json`."""
    return {
        "run": str(run.folder),
        "env_steps": run.env_steps,
        "out": str(film.path),
        "frames": film.frames,
        "bytes": film.size_bytes,
        "seed": film.seed,
        "steps": film.env_steps,
        "return": film.team_return,
        "agent_return": film.agent_return,
        "end": film.end,
        "positions_known": film.positions_known,
    }


def film_text(film: "Film") -> str:
    """`marl play`."""
    ends = {"cut": f"cut after {film.env_steps:,} env steps (--steps N for more)"}
    end = ends.get(film.end, f"{film.end} after {film.env_steps:,} env steps")
    lines = [
        f"return  {number(film.team_return)}, {end}",
        f"{film.path}  {film.frames:,} {'picture' if film.frames == 1 else 'pictures'}, {film.size_bytes:,} bytes",
    ]
    if not film.positions_known:
        lines.append("The agents are in the legend alone: where they stand is not known (give the environment a locate(agent)).")
    return "\n".join(lines)
