"""What a terminal shows of a run under way, under its bar."""

import time
from collections import deque
from datetime import timedelta

from st_adapter.common.progress import Bar, trend
from st_adapter.evaluation.metrics import METRICS
from st_adapter.training.run import Run

_SHOWN_LOSSES = 16


class RunView:
    """What to remember between two looks at a run.

    Attributes:
        losses: the last that were logged.
        last_score: of the last epoch that was validated here.
        facts: what was shown last.
    """

    def __init__(self, run: Run) -> None:
        self.losses: deque[float] = deque(maxlen=_SHOWN_LOSSES)
        self.last_score: float | None = None
        self.facts: list[str] = []
        self._began, self._first_step = time.monotonic(), run.at.step

    def show(self, run: Run, clips_per_second: float, memory_gb: float, progress: Bar) -> None:
        """Renew the facts under the bar."""
        self.facts = [
            f"step {run.at.step}",
            f"loss {self.losses[-1]:.3f} {trend(self.losses)}".rstrip(),
            f"rate {run.optimizer.param_groups[0]['lr']:.1e}",
            f"{clips_per_second:.1f} clips/s",
            f"{memory_gb:.1f} GB",
            f"whole run {self._time_left(run)} left",
        ]
        if run.at.best_score >= 0:
            last = "" if self.last_score is None else f"last {self.last_score:.1%}, "
            self.facts.append(f"{_measure(run)} {last}best {run.at.best_score:.1%}")
        progress.tell(*self.facts)

    def _time_left(self, run: Run) -> timedelta:
        """At the pace so far, the validation of epochs that are done counted in."""
        seconds = (time.monotonic() - self._began) / (run.at.step - self._first_step)
        left = run.config.epochs * run.steps_per_epoch - run.at.step
        return timedelta(seconds=round(seconds * left))


def _measure(run: Run) -> str:
    return METRICS["mean_average_precision" if run.data.task.multi_label else "top1"]
