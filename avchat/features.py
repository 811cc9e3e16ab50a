"""Pooled features of frozen encoders, computed once and kept in a folder.

Enter: parts of media files. Leave: `PooledFeatures`, mapped from disk, that training takes in place
of clips. What is in the folder holds for one pair of encoders and one way of sampling and pooling
(`cache.json`); for any other it is refused. A clip is known by what is in its file and by its
part, so clips and folder may be moved; where a clip is gone (features that were brought to a
cluster without their clips) what was computed for its path is used.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avchat.container import check_ordinary
from avchat.data import DataError, Sample
from avchat.encoders import Inputs
from avchat.feature_shards import (
    Places,
    Record,
    ShardReader,
    ShardWriter,
    is_readable,
    read_records,
    write_whole,
)
from avchat.media import MediaError, load_media
from avchat.model import AVChat
from avchat.projectors import PooledFeatures
from avchat.saved import fingerprint

CACHE_FILE = "cache.json"
FORMAT = 1  # of the folder and of the arithmetic in front of it: another number refuses old ones
WORDS = ("vision", "audio")  # in cache.json for its reader; the weights themselves are compared
TENSORS = ("visual", "audio", "audio_alone")
BATCH_BYTES = 256 * 2**20  # of prepared clips that go through the encoders together
TIMEOUT_S = 300.0  # hours of sound decode in a minute or two; what takes longer hangs
CHUNK = 32  # frames, or windows, that go through a network at once

Key = dict[str, Any]
Id = tuple[str, float | None, float | None]  # contents, start, end


class Part(NamedTuple):
    """A part of a media file, in seconds; None for its begin, or its end."""

    path: Path
    start_s: float | None
    end_s: float | None


class Entry(NamedTuple):
    """A clip's times, and where its tensors are."""

    times: PooledFeatures
    shard: str | None  # None: nothing was seen or heard
    held: dict[str, str]


@dataclass(frozen=True)
class Look:
    """What reading a part gave: a clip, a fault, or neither where its features are there."""

    part: Part
    place: Record | None
    clip: Inputs | None = None
    fault: str | None = None


def part_of(sample: Sample) -> Part:
    """Name the part of a file that a sample with media is about."""
    assert sample.media is not None, f"sample {sample.id} is of text alone"
    return Part(sample.media, sample.start_s, sample.end_s)


def key_of(model: AVChat, half: bool) -> Key:
    """Write down all that pooled features depend on, beside the clip.

    Weights must be whole: before a model is handed to ZeRO-3.
    """
    vision, audio, config = model.vision, model.audio, model.config
    siglip, whisper = vision.siglip, audio.whisper
    shape = asdict(config.projector)
    names = ("layout", "grid", "patches", "audio_tokens", "audio_bins")
    return {
        "format": FORMAT,
        "vision": _name(config.vision.hub, config.vision.revision, config.name),
        "audio": _name(config.audio.hub, config.audio.revision, config.name),
        "weights of vision": fingerprint(vision.state_dict()),
        "weights of audio": fingerprint(audio.state_dict()),
        # what of a network its weights do not show
        "vision heads": siglip.config.num_attention_heads,
        "vision activation": siglip.config.hidden_act,
        "vision final norm": vision.final_norm,
        "vision dtype": str(siglip.dtype).removeprefix("torch."),
        "audio heads": whisper.blocks[0].attn.n_head if len(whisper.blocks) else 0,
        "audio dtype": str(whisper.conv1.weight.dtype).removeprefix("torch."),
        **{name: shape[name] for name in names},
        "frames": config.frames,
        **asdict(model.spec),
        "precision": "half" if half else "full",
    }


def _name(hub: str | None, revision: str | None, config: str) -> str:
    return f"of {config}" if hub is None else f"{hub}@{revision}" if revision else hub


def open_folder(folder: Path, key: Key) -> Key:
    """Begin a folder, or read its key; DataError names what differs from the key given.

    Full precision serves who asks for half of it, too.
    """
    path = folder / CACHE_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(folder.glob("index-*.jsonl")):
                raise DataError(f"{path} is gone, so it is not known of what these features are")
            write_whole(path, (json.dumps(key, indent=2) + "\n").encode())
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder}: cannot be used ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: not readable ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a cache of features")
    same = {"precision"} if found.get("precision") == "full" else set()
    names = [name for name in {**key, **found} if name not in {*WORDS, *same}]
    differing = [
        f"{name} {found.get(name)} there, {key.get(name)} here"
        for name in names
        if found.get(name) != key.get(name)
    ]
    if differing:
        raise DataError(
            f"{folder}: features of other encoders or options ({'; '.join(differing)}): "
            "name another folder, or remove this one"
        )
    return found


class FeatureCache:
    """The features in a folder, for one model's encoders.

    Args: half: keep them in fp16, else as the encoders give them; a folder that is kept in full
    goes on so.
    """

    def __init__(self, folder: Path, model: AVChat, half: bool = True) -> None:
        """Open a folder, or begin one.

        Raises:
            DataError: it is of other encoders or options (it says of which), or not to be used.
        """
        self.folder, self.model = Path(folder), model
        self.half = open_folder(self.folder, key_of(model, half))["precision"] == "half"
        self._places, self._reader = Places(self.folder), ShardReader(self.folder)
        self._entries: dict[Id, Entry] = {}
        self._faults: dict[Id, str] = {}
        self._unread: dict[str, Record] = {}  # by path: faults of files of which no hash is known
        self.reload()

    def reload(self) -> None:
        """Read what other processes have added since."""
        for record in read_records(self.folder):
            self._take(record)

    def _take(self, record: Record) -> None:
        """Learn from a record: of a place, of a fault or of features."""
        if "place" in record:
            self._places.take(record)
        elif "sum" in record:
            self._reader.sums.update([record["sum"]])
        elif "path" in record:
            self._unread[record["path"]] = record
        elif "fault" in record:
            self._faults[tuple(record["id"])] = record["fault"]
        else:
            times = PooledFeatures(None, None, None, tuple(record["times"][0]), *record["times"][1])
            entry = Entry(times, record.get("shard"), record.get("tensors", {}))
            self._entries[tuple(record["id"])] = entry

    def _id(self, part: Part) -> Id | None:
        hash = self._places.find(part.path)
        return None if hash is None else (hash, part.start_s, part.end_s)

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """List the parts without features or fault, each once, in order.

        One whose file has changed since is missing.
        """
        unique = dict.fromkeys(parts)
        return [p for p in unique if self._id(p) not in self._entries and self.fault(p) is None]

    def fault(self, part: Part) -> str | None:
        """Say why a part could not be read, where it could not."""
        found = self._id(part)
        if found is not None:
            return None if found in self._entries else self._faults.get(found)
        unread = self._unread.get(str(part.path))
        if unread is None or readable_as(part.path) not in (None, unread["as"]):
            return None
        return unread["fault"]

    def __getitem__(self, part: Part) -> PooledFeatures:
        """Map a part's features; DataError where there are none."""
        entry = self._entry(part)
        if entry.shard is None:
            return entry.times
        return replace(entry.times, **self._reader.tensors(entry.shard, entry.held))

    def times(self, part: Part) -> PooledFeatures:
        """Give a part's times and number of states without its tensors: what `plan` asks for."""
        return self._entry(part).times

    def _entry(self, part: Part) -> Entry:
        entry = self._entries.get(self._id(part))
        if entry is None:
            reason = self.fault(part) or f"{part.path.name}: no features: run train/cache.py"
            raise DataError(f"{part.path.parent / reason} ({self.folder})")
        return entry

    @torch.inference_mode()
    def fill(
        self,
        parts: Sequence[Part],
        *,
        workers: int,
        share: tuple[int, int] = (0, 1),
        progress: Callable[[int, int], None],
    ) -> None:
        """Compute the features of parts; what cannot be read becomes a fault with its reason.

        Args:
            workers: files that are decoded at once, each in a process of its own, ahead of the
            encoders. share: (rank, number of ranks): this one's share, the same in whatever order
            and company the parts come. progress: is told how many of how many are done.

        Raises:
            DataError: the folder cannot be written, or a value does not fit half precision.
        """
        mine = [part for part in dict.fromkeys(parts) if share_of(part, share[1]) == share[0]]
        done = 0
        progress(0, len(mine))
        with ShardWriter(self.folder, self._take) as writer:
            while share[0] == 0 and self._places.fresh:
                writer.add(self._places.fresh.pop())
            for looks in ahead(self.look, mine, workers):
                self._store(looks, writer)
                done += len(looks)
                progress(done, len(mine))

    def look(self, part: Part) -> Look:
        """Read and decode a part, unless its features are there."""
        place = None
        try:
            if is_readable(part.path):  # to hash a pipe is to wait for ever
                place = self._places.look(part.path)
            check_ordinary(part.path)
            if place and (place["place"].hash, part.start_s, part.end_s) in self._entries:
                return Look(part, place)
            return Look(part, place, prepared(self.model, part))
        except MediaError as error:
            return Look(part, place, fault=str(error))
        except (DataError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Look(part, place, fault=f"{part.path.name}: {reason}")

    def _store(self, looks: list[Look], writer: ShardWriter) -> None:
        """Encode what was decoded, and hand it to the writer."""
        for look in looks:
            if look.place is not None:
                writer.add(look.place)
            if look.fault is not None and look.place is None:
                path = look.part.path
                seen = {"path": str(path), "as": readable_as(path), "fault": look.fault}
                writer.add(seen)
            elif look.fault is not None:
                writer.add({"id": id_of(look), "fault": look.fault})
        for some in batches([look for look in looks if look.clip is not None]):
            clips = self.model.encode([look.clip for look in some], chunk=CHUNK)
            for look, pooled in zip(some, self.model.pool(clips), strict=True):
                times = pooled.num_states, pooled.start_s, pooled.duration_s
                record = {"id": id_of(look), "times": (pooled.frame_times_s, times)}
                writer.add(record, stored(pooled, self.half, look.part.path))


def id_of(look: Look) -> Id:
    """Name what a look was at."""
    return look.place["place"].hash, look.part.start_s, look.part.end_s


def readable_as(path: Path) -> list[int] | None:
    """Say which version of a file may be read: size and date; None for none."""
    if not is_readable(path):
        return None
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def share_of(part: Part, world: int) -> int:
    """Say which of so many ranks a part belongs to."""
    return zlib.crc32(f"{part.path} {part.start_s} {part.end_s}".encode()) % world


def prepared(model: AVChat, part: Part) -> Inputs:
    """Decode a part as training does, in a process of its own; MediaError if it cannot be."""
    media = load_media(
        part.path,
        frames=model.config.frames,
        size=None,
        start=part.start_s,
        end=part.end_s,
        isolate=True,
        timeout_s=TIMEOUT_S,
    )
    return model.prepare(media)


def stored(pooled: PooledFeatures, half: bool, path: Path) -> dict[str, Tensor]:
    """Make pooled rows ready to be kept; DataError where a value is none that can be."""
    held = {}
    for name in TENSORS:
        rows = vars(pooled)[name]
        if rows is None:
            continue
        held[name] = rows.to("cpu", torch.float16 if half else rows.dtype, copy=True).contiguous()
        if not held[name].isfinite().all():
            reason = "values too large for half precision: give --full"
            if not rows.isfinite().all():
                reason = "the encoders give values that are not finite"
            raise DataError(f"{path}: {reason}")
    return held


def batches(looks: list[Look]) -> Iterator[list[Look]]:
    """Deal clips out so that a batch stays below BATCH_BYTES, or is one clip."""
    some, size = [], 0
    for look in looks:
        nbytes = sum(x.nbytes for x in (look.clip.pixels, look.clip.mels) if x is not None)
        if some and size + nbytes > BATCH_BYTES:
            yield some
            some, size = [], 0
        some, size = [*some, look], size + nbytes
    if some:
        yield some


def ahead(look: Callable[[Part], Look], parts: list[Part], workers: int) -> Iterator[list[Look]]:
    """Look at parts in threads, a few ahead; yield what is ready, in the order of its end.

    At most twice as many as there are workers are held, whoever is slow.
    """
    left = iter(parts)
    waiting: set[Future[Look]] = set()
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            while len(waiting) < 2 * workers and (part := next(left, None)) is not None:
                waiting.add(pool.submit(look, part))
            if not waiting:
                return
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield [future.result() for future in ready]
    finally:
        pool.shutdown(cancel_futures=True)
