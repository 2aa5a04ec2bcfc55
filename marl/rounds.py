"""The rounds of a run until it is finished, with metrics, evaluations and checkpoints where they are due."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..envs.errors import WorkerDied
from . import checkpoint as checkpoints
from .checkpoint import Content
from .cures import CURES, treat
from .errors import Diverged, Interrupted, LazyAgent, WorkerLost
from .evaluate import Episodes, summarise
from .folder import Event, Logbook, write_atomically
from .trainer import Trainer
from .watching import Watcher, make_watcher


class Rounds:
    """A trainer at work in its folder.

    Args:
        meta: what the checkpoint says that the trainer was restored from; None for a new run.
        stop_signal: gives the number of a signal that came, after which the run is saved and stops.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        logbook: Logbook,
        *,
        on_event: Event,
        stop_signal: Callable[[], int | None],
        meta: dict[str, Any] | None,
    ):
        self.folder, self.trainer, self.config, self.logbook = folder, trainer, trainer.config, logbook
        self.on_event, self.stop_signal, self.is_new = on_event, stop_signal, meta is None
        self.every = self.config.evaluation.every or max(self.config.steps // 20, 1)
        self.marks: dict[str, Any] = (meta or {}).get("marks") or {"logged": 0, "checked": 0, "evaluated": 0, "saved": 0, "closed": False}
        """The env steps at which each thing was done last."""
        self.watcher = make_watcher(self.config, trainer.env, (meta or {}).get("watch"))

    def finish(self) -> None:
        """Rounds up to the run's steps, then the last evaluation.

        Raises:
            Interrupted: a signal came; saved. WorkerLost: a worker process died; saved. Diverged: a gradient is not finite; not saved.
            LazyAgent: one was found and --on-lazy stop was said; saved.
        """
        self.begin()
        try:
            if self.marks.get("owes_evaluation"):
                self._evaluate_and_save()
            if self.marks.get("owes_look"):
                self._look_and_save()
            while not self.trainer.finished:
                self.trainer.round()
                self.after_round()
                self._stop_if_asked()
            self.end()
        except WorkerDied as died:  # nothing here depends on a worker: the trainer stands where its last whole round ended
            self.save()
            raise WorkerLost(died, died.remedy, env_steps=self.trainer.counters.env_steps, folder=str(self.folder)) from died

    def begin(self) -> None:
        """Say that it starts; a new run is saved as it stands."""
        self._tell("start", run=str(self.folder))
        if self.is_new:
            self.save()

    def after_round(self) -> None:
        """What is due after a round of the trainer; Diverged where a gradient is not finite."""
        trainer, config = self.trainer, self.config
        if self._is_due("checked", max(self.every // 10, 1)):
            trainer.settle()
        self._refuse_infinite()
        self._tell("progress", epsilon=trainer.epsilon)
        if self._is_due("logged", max(self.every // 10, 1)):
            self.logbook.write({"event": "train", **trainer.metrics()})
        if self._is_due("evaluated", self.every) and not trainer.finished:
            self._evaluate_and_save()
        elif self._is_due("saved", config.checkpoint.every):
            self.save()
        if isinstance(config.watch_credit, int) and self._is_due("watched", config.watch_credit) and not trainer.finished:
            self._look_and_save()

    def end(self) -> None:
        """The last evaluation, where it was not yet made."""
        closed = self.marks["closed"] and self.marks.get("steps") == self.config.steps
        if not closed or not (self.folder / "result.json").exists():  # somebody may have removed it
            self._close()

    def _stop_if_asked(self) -> None:
        signal_number = self.stop_signal()
        if signal_number is not None and not self.trainer.finished:
            self.save()
            at = self.trainer.counters.env_steps
            raise Interrupted(signal_number, f"stopped at {at} env steps; saved. Go on with: marl resume {self.folder}")

    def _tell(self, event: str, **more: Any) -> None:
        here = {"env_steps": self.trainer.counters.env_steps, "steps": self.config.steps}
        self.on_event({"event": event, **here, **more})

    def _is_due(self, mark: str, interval: int) -> bool:
        here = self.trainer.counters.env_steps  # marks are env steps, since --steps may have changed the interval
        if interval and here // interval > self.marks.get(mark, 0) // interval:
            self.marks[mark] = here
            return True
        return False

    def _evaluate_and_save(self) -> None:
        self.marks["owes_evaluation"] = True  # a worker may die in it; then the resumed run makes up for it
        played = self._evaluate(self.config.evaluation.episodes)
        lazy = self._look(played) if self.config.watch_credit == "evaluations" else []
        del self.marks["owes_evaluation"]
        self._is_due("saved", self.config.checkpoint.every)
        self.save()
        self._stop_if_lazy(lazy)

    def _look_and_save(self) -> None:
        """A look between evaluations."""
        self.marks["owes_look"] = True
        lazy = self._look(self.trainer.play(self.config.evaluation.episodes))
        del self.marks["owes_look"]
        self.save()
        self._stop_if_lazy(lazy)

    def _look(self, played: Episodes) -> list[str]:
        """The watcher's look at the team that `played` an evaluation; who was found lazy."""
        if self.watcher is None:
            return []
        records = self.watcher.look(self.trainer.team, self.trainer.counters.env_steps, played)
        for record in records:
            self.logbook.write(record)
        lazy = [record for record in records if record["event"] == "lazy"]
        if self.config.watch.on_lazy == "intervene" and not self.trainer.finished:
            for record in lazy:
                self._cure(self.watcher, record["agent"], teammates_earn=record["teammates_earn"])
            self._cure_the_passed_over(self.watcher)
        return [record["agent"] for record in lazy]

    def _cure(self, watcher: Watcher, name: str, *, teammates_earn: bool) -> None:
        """Treat a lazy agent, once, unless it is planted or nobody else earns anything either; and say so."""
        agents, trainer = self.trainer.env.spec.agents, self.trainer
        agent, learns = agents.index(name), trainer.team.learns(len(agents))
        before = [each for each in trainer.treatments if each.agent == agent]
        peer = watcher.best_teammate(agent, learns)
        if not bool(learns[agent]):
            text = f"{name} is planted and does not learn: there is nothing to cure"
        elif before:
            text = f"{name} was treated with {before[0].cure} at {before[0].since:,} env steps and is lazy again: nothing more is done"
        elif not teammates_earn:
            text = f"no teammate of {name} earns anything either, so it may only depend on one that idles: nothing is done"
        elif peer is None and CURES[self.config.watch.cure].needs_peer:
            text = f"{name} has no teammate that learns: nothing is done"
        else:
            treatment, done = treat(trainer, agent, peer)
            watcher.restart(agent, treatment.until)
            text = f"{name} is treated with {treatment.cure}: {done}; it is judged again from {treatment.until:,} env steps on"
        self.logbook.write(
            {"event": "cure", "env_steps": trainer.counters.env_steps, "agent": name, "cure": self.config.watch.cure, "text": text}
        )

    def _cure_the_passed_over(self, watcher: Watcher) -> None:
        """Treat those who were found lazy when no teammate earned anything, and were left alone, once a teammate does who is not lazy."""
        agents, needs_peer = self.trainer.env.spec.agents, CURES[self.config.watch.cure].needs_peer
        learns = self.trainer.team.learns(len(agents))
        treated = {each.agent for each in self.trainer.treatments}
        for agent in watcher.still_lazy():
            can = bool(learns[agent]) and not (needs_peer and watcher.best_teammate(agent, learns) is None)
            if can and agent not in treated and watcher.has_working_teammate(agent):
                self._cure(watcher, agents[agent], teammates_earn=True)

    def _stop_if_lazy(self, lazy: list[str]) -> None:
        """LazyAgent, after saving, where the run is to stop for one."""
        if lazy and self.config.watch.on_lazy == "stop":
            at, remedy = self.trainer.counters.env_steps, f"marl lazy {self.folder}"
            verb = "does not pull its" if len(lazy) == 1 else "do not pull their"
            message = (
                f"stopped at {at} env steps: {', '.join(lazy)} {verb} weight; saved. Go on all the same with: marl resume {self.folder}"
            )
            raise LazyAgent(message, remedy=remedy)

    def _close(self) -> None:
        played = self._evaluate(self.config.evaluation.final_episodes, final=True)
        final = summarise(played, self.trainer.env.spec.agents)
        self._look(played)  # training is over: whoever is lazy now is reported and nothing else follows
        self.marks |= {"closed": True, "steps": self.config.steps}
        result = {
            "env_steps": self.trainer.counters.env_steps,
            "return": {"mean": final.mean, "interval": final.interval, "episodes": len(final.returns)},
        }
        write_atomically(self.folder / "result.json", json.dumps(result) + "\n")  # before the checkpoint that says the run is closed
        self.save()

    def _evaluate(self, episodes: int, *, final: bool = False) -> Episodes:
        played = self.trainer.play(episodes)
        result = summarise(played, self.trainer.env.spec.agents)
        self.logbook.write(
            {
                "event": "evaluation", "env_steps": self.trainer.counters.env_steps, "return": result.mean,
                "interval": result.interval, "episodes": episodes, "agent_return": result.agent_return, "final": final,
            }
        )  # fmt: skip
        return played

    def _refuse_infinite(self) -> None:
        """Diverged where a gradient that was summed up is not finite."""
        if not all(math.isfinite(value) for name, value in self.trainer.sums.values.items() if name.endswith("grad_norm")):
            raise Diverged(self.trainer.counters.env_steps)

    def save(self) -> None:
        """A checkpoint of the run as it stands; Diverged, with nothing written, where a gradient before it was not finite."""
        content, root = self.trainer.dump(), self.folder / "checkpoints"
        self._refuse_infinite()
        extra = {"marks": dict(self.marks), "metrics_bytes": self.logbook.flush(), "seconds": self.logbook.seconds}
        if self.watcher is not None:
            extra["watch"] = self.watcher.dump()
        checkpoints.save(root, self.trainer.counters.env_steps, Content({"trainer": content.meta, **extra}, content.groups))
        checkpoints.drop_replays(root, self.config.checkpoint.replay)
