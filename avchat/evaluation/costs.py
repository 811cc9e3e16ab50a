"""What an evaluation that keeps no records costs: seconds by stage, clips, tokens, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from avchat.evaluation.records import Row, peak_mb
from avchat.evaluation.report import cost

RENDER = "render"  # the stage in which clips are made


@dataclass
class Cost:
    """What a run took."""

    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    clips: int = 0
    tokens: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what a stage takes."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(stage, perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def found(self) -> Row:
        """Sum it up, as a run's report does; making clips is no part of the speeds."""
        asked = {stage: value for stage, value in self.seconds.items() if stage != RENDER}
        about = {"clips_asked": self.clips, "tokens": self.tokens, "peak_memory_mb": peak_mb()}
        found = cost(about | {"seconds": asked})
        return found | {"seconds": {k: round(value, 1) for k, value in self.seconds.items()}}
