"""A file -> how loud it is over time, and where its shots change: what a timeline shows.

Memory stays flat on hours of sound. Shapes: B bins of equal length, G grains of sound, S samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import numpy as np

from avchat import isolation
from avchat.container import MediaError, open_file
from avchat.encoding import horizon_s, laid_out
from avchat.media import SAMPLE_RATE, SHORT_S, MediaInfo
from avchat.windows import find_cuts, measure_length

SERVE = "avchat.contour:serve"  # what a process of its own runs
MAX_BYTES = 1 << 29  # of decoded pictures and sound held at a time, beside libav's own
GRAIN_S = 0.05  # the loudest moment of a bin lasts so long, or as long as the bin: a bark shows
SILENT = 1e-3  # of full scale, -60 dB: is not heard, and not made large
LONG_S = 180.0  # shots of longer files are looked for among keyframes alone: many times as fast
EDGE = 1e-3  # of a grain: a bin that ends so little after one does not hold the next
SOUND_SHARE = 0.1  # of the work, where there is a picture track too


@dataclass(frozen=True)
class Contour:
    """What a timeline shows of a file."""

    loudness: np.ndarray | None  # float32 [B] in 0..1; None where there is no sound track
    cuts_s: list[float]  # when each new shot begins; the first shot is not among them
    duration_s: float  # measured where the file does not say it; 0 for a still picture
    warnings: tuple[str, ...] = ()


def contour(
    path: str | Path,
    info: MediaInfo,
    *,
    bins: int = 400,
    isolate: bool = True,
    progress: isolation.Progress | None = None,
    stop: Event | None = None,
    timeout_s: float = 600,
) -> Contour | None:
    """Listen and look through a file: how loud each part is, and when shots change.

    A bin is as loud as its loudest moment: 1 is the loudest of the file, a quarter of its amplitude
    is half as high, 0 cannot be heard or does not decode; the warnings say so then. Cuts of files
    over 3 minutes lie on keyframes. `progress` hears what share of 1 is done. None when `stop` was
    set. Raises MediaError for a file of which nothing can be used; each of its tracks may take
    `timeout_s`.
    """
    if info.is_still:
        return Contour(None, [], 0.0)
    survey = Survey(Path(path), info, isolate, timeout_s, progress, stop)
    levels, cuts, warnings, faults = None, [], [], []
    try:
        length_s = info.duration_s if info.is_exact else 0.0
        length_s = length_s or survey.ask("measure")[0]["length_s"]
        if info.has_audio:
            try:
                levels, warnings = survey.hear(length_s, bins)
            except MediaError as error:
                levels, faults = np.zeros(bins, np.float32), [error]
        if info.has_video:
            try:
                cuts = survey.look(length_s)
            except MediaError as error:
                faults.append(error)
    except isolation.Stopped:
        return None
    if len(faults) == info.has_audio + info.has_video:
        raise faults[0]
    return Contour(levels, cuts, length_s, (*warnings, *map(str, faults)))


@dataclass(frozen=True)
class Survey:
    """One file, and how processes of their own are asked about its tracks."""

    path: Path
    info: MediaInfo
    isolate: bool
    timeout_s: float
    progress: isolation.Progress | None
    stop: Event | None

    def hear(self, length_s: float, bins: int) -> tuple[np.ndarray, list[str]]:
        """Ask how loud it is, float32 [B], and what is wrong with its sound."""
        share = (0.0, SOUND_SHARE if self.info.has_video else 1.0)
        reply, arrays = self.ask("hear", share, length_s, bins)
        return arrays[0], reply["warnings"]

    def look(self, length_s: float) -> list[float]:
        """Ask when its shots change."""
        share = (SOUND_SHARE if self.info.has_audio else 0.0, 1.0)
        return self.ask("look", share, length_s)[0]["cuts_s"]

    def ask(
        self,
        what: str,
        share: tuple[float, float] = (0.0, 0.0),
        length_s: float = 0.0,
        bins: int = 0,
    ) -> isolation.Reply:
        """Have one thing found out, which is a share of the whole; its MediaError is raised."""

        def tell(done: float, total: float) -> None:
            if self.progress is not None:
                self.progress(share[0] + (share[1] - share[0]) * min(1.0, done / total), 1.0)

        request = {"what": what, "path": str(self.path), "info": asdict(self.info)}
        request |= {"length_s": length_s, "bins": bins}
        watch = {"timeout_s": self.timeout_s, "progress": tell, "stop": self.stop}
        try:
            if self.isolate:
                reply, arrays = isolation.call(SERVE, request, max_bytes=MAX_BYTES, **watch)
            else:
                reply, arrays = serve(request)
        except isolation.WorkerError as error:
            raise MediaError(f"{self.path.name}: its timeline {error}") from error
        if "error" in reply:
            raise MediaError(reply["error"])
        if self.progress is not None and share[1] > share[0]:
            self.progress(share[1], 1.0)  # the process may have said it too soon after the last
        return reply, arrays


def serve(request: dict) -> isolation.Reply:
    """Answer `Survey.ask`, in a process of its own perhaps."""
    path, info = Path(request["path"]), MediaInfo(**request["info"])
    length_s = request["length_s"]
    try:
        if request["what"] == "measure":
            return {"length_s": measure_length(path)}, []
        tell = isolation.Teller(length_s).say
        if request["what"] == "look":
            return {"cuts_s": find_cuts(path, length_s, length_s > LONG_S, False, tell)}, []
        levels, warnings = measure_loudness(path, info, length_s, request["bins"], tell)
    except MediaError as error:
        return {"error": str(error)}, []
    return {"warnings": warnings}, [levels]


def measure_loudness(
    path: Path, info: MediaInfo, length_s: float, bins: int, tell: Callable[[float], None]
) -> tuple[np.ndarray, list[str]]:
    """Measure the loudness of each bin, float32 [B] in 0..1, and say what is wrong with it."""
    grain = max(1, round(min(GRAIN_S, length_s / bins) * SAMPLE_RATE))
    lost: list[int | None] = []
    with open_file(path) as source:
        part = (0.0, length_s)
        waves = laid_out(source, SAMPLE_RATE, "mono", part, horizon_s(info), lost)
        levels, heard_s = listen(waves, grain, tell)
    warnings = ["the sound is damaged in places, and flat there"] if lost else []
    if not info.has_video and heard_s < length_s - SHORT_S:
        warnings.append(f"decoded {heard_s:.1f} s of {length_s:.1f} s: cut short or damaged")
    loudest = loudest_of_bins(levels, bins, length_s * SAMPLE_RATE / grain)
    peak = loudest.max(initial=0.0)
    if peak <= SILENT:
        return np.zeros(bins, np.float32), warnings
    # the square root of the amplitude: nearer to what ears make of it, and soft sounds show
    return np.sqrt(np.clip((loudest - SILENT) / (peak - SILENT), 0, 1)), warnings


def listen(
    waves: Iterator[np.ndarray], grain: int, tell: Callable[[float], None]
) -> tuple[np.ndarray, float]:
    """Reduce sound, float32 [1, S] at a time, to the level of each grain; and say how long it was.

    A level, float32 [G], is the root of the mean square of so many samples.
    """
    levels: list[np.ndarray] = []
    rest, count = np.zeros(0, np.float32), 0
    for wave in waves:
        rest = np.concatenate([rest, np.nan_to_num(wave[0])])
        whole = len(rest) // grain * grain
        levels.append(level(rest[:whole].reshape(-1, grain)))
        rest, count = rest[whole:], count + wave.shape[1]
        tell(count / SAMPLE_RATE)
    if len(rest):
        levels.append(level(rest[None]))
    return np.concatenate([np.zeros(0, np.float32), *levels]), count / SAMPLE_RATE


def level(grains: np.ndarray) -> np.ndarray:
    """Return the level of each grain of sound [G, S]: float32 [G]."""
    return np.sqrt(np.square(grains).mean(axis=1))


def loudest_of_bins(levels: np.ndarray, bins: int, grains: float) -> np.ndarray:
    """Take of each bin the loudest grain, float32 [B], of a file that is so many grains long."""
    edges = np.linspace(0, grains, bins + 1)
    first, last = np.floor(edges[:-1] + EDGE).astype(int), np.ceil(edges[1:] - EDGE).astype(int)
    some = (levels[a : max(a + 1, b)] for a, b in zip(first, last, strict=True))
    return np.asarray([part.max(initial=0.0) for part in some], np.float32)
