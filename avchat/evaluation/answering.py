"""Answers of a model to items under conditions: each clip decoded once for all of them.

Enters: items, a model. Leaves: a folder of records (records.py). A run that was killed goes on with
what is missing; a clip, a question, the model or an option that changed is asked again, and nothing
else is.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from avchat.batch import answer_batch
from avchat.batch_media import Part, in_orders, load_order
from avchat.batch_run import Asking as BatchAsking
from avchat.batch_run import settings_of, whisper_key
from avchat.evaluation.conditions import BORROWS, CONDITIONS, Taken, seed_of, under
from avchat.evaluation.hashes import Hashes, hashes_in
from avchat.evaluation.items import EvalError, Item, key_of
from avchat.evaluation.records import (
    ANSWERS,
    Records,
    Row,
    manifest,
    save_manifest,
    write_plan,
)
from avchat.evaluation.verdicts import verdict
from avchat.media import Media, MediaError
from avchat.model import AVChat
from avchat.prompt import PromptError
from avchat.spoken import fitting, spoken
from avchat.transcripts import Line, Transcriber

NEXT = 8  # clips that are tried, in their order, for another clip's sound
AHEAD = 2  # lists of clips that are decoded while the model answers

Told = Callable[[int, int], None]  # answers that are there, of how many


@dataclass(frozen=True)
class Asking:
    """How items are asked; all of it is part of an answer's key."""

    conditions: tuple[str, ...] = ("full",)
    frames: int | None = None  # None: as many as the model takes
    free: bool = False  # answers in the model's own words even where there are choices
    max_new_tokens: int = 32
    shift_s: float = 2.0
    seed: int = 0
    whisper: str | None = None  # what writes down what is said, for transcript_only

    def check(self) -> None:
        """Raise EvalError for a condition that there is not, or that stands there twice."""
        if not self.conditions:
            raise EvalError(f"name a condition: there are {', '.join(CONDITIONS)}")
        if len(set(self.conditions)) < len(self.conditions):
            raise EvalError(f"a condition is named twice: {', '.join(self.conditions)}")
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown:
            raise EvalError(
                f"no condition is called {unknown[0]}: there are {', '.join(CONDITIONS)}"
            )


class Plan:
    """What is to be answered: for each item and condition its key."""

    def __init__(
        self, model: AVChat, items: Sequence[Item], asking: Asking, hashes: Hashes
    ) -> None:
        asking.check()
        self.items, self.asking = items, asking
        self.parts = list(dict.fromkeys(map(part_of, items)))
        place = {part: k for k, part in enumerate(self.parts)}
        self.others = {part: self._others(place[part]) for part in self.parts}
        self.revision = revision_of(model, asking)
        # of what is in the clip, wherever it lies: its key says nothing of its path
        self.seeds = {p: asking.seed + seed_of(hashes.of(Path(p.path))) for p in self.parts}
        self.whisper = whisper_key(asking.whisper) if asking.whisper else None
        self.keys: dict[tuple[str, str], str] = {}
        for item in items:
            for name in asking.conditions:
                self.keys[item.id, name] = self._key(item, name, hashes)

    def _others(self, place: int) -> list[Part]:
        """List whose sound a clip may get: of the other files that follow it, round and round."""
        following = (self.parts[(place + k) % len(self.parts)] for k in range(1, len(self.parts)))
        others = (part for part in following if part.path != self.parts[place].path)
        return list(islice(others, NEXT))

    def _key(self, item: Item, name: str, hashes: Hashes) -> str:
        facts: dict[str, Any] = {"condition": name, "clip": hashes.of(item.video)}
        if name in BORROWS:
            others = self.others[part_of(item)]
            facts["others"] = [[hashes.of(Path(p.path)), p.start, p.end] for p in others]
        if name == "shifted":
            facts["shift_s"] = self.asking.shift_s
        if name == "shuffled_frames":
            facts["seed"] = self.asking.seed
        if name == "transcript_only":
            facts["whisper"] = self.whisper
        free = self.asking.free or not item.choices
        how = {"free": free, "most": self.asking.max_new_tokens if free else 0}
        return key_of(self.revision, item.asked(), facts, how)

    def rows(self) -> Iterator[Row]:
        """Yield the lines of plan.jsonl."""
        for item in self.items:
            for name in self.asking.conditions:
                yield {"key": self.keys[item.id, name], "condition": name, **item.known()}


def part_of(item: Item) -> Part:
    """Name what is decoded for an item."""
    return Part(str(item.video), item.start_s, item.end_s)


def revision_of(model: AVChat, asking: Asking) -> Row:
    """Name a model by its config and its weights, with the frames that it is shown."""
    settings = settings_of(model, BatchAsking())
    shown = {"frames": asking.frames or model.config.frames}
    return {
        "model": settings["model"],
        "weights": settings["weights"],
        "prompt": asdict(model.config.prompt),
        **shown,
    }


def generate(
    model: AVChat,
    items: Sequence[Item],
    asking: Asking,
    folder: Path,
    *,
    facts: Row | None = None,
    clips: int = 16,
    told: Told = lambda done, of: None,
) -> int:
    """Answer what is missing in a folder; EvalError where it cannot be written.

    Args: facts: for the manifest; clips: that are in memory, and answered about, at once.

    Returns: how many answers were missing.
    """
    transcriber = transcriber_of(model, asking)
    with Records(folder / ANSWERS) as records, hashes_in(folder) as hashes:
        plan = Plan(model, items, asking, hashes)
        write_plan(folder, plan.rows())
        missing = set(records.missing(plan.keys.values()))
        about = {**(facts or {}), "model": plan.revision["model"], "revision": plan.revision}
        about |= {"asking": asdict(asking), "n": len(plan.keys), "clips": len(plan.parts)}
        with manifest(folder, about) as found:
            found |= {"n_missing": None, "n_unparsed": None}  # known at the end
            run = Run(model, plan, missing, transcriber, found)
            total = len(set(plan.keys.values()))
            done = total - len(missing)
            told(done, total)
            for rows in run.answers(clips):
                records.add(rows)
                found["tokens"] += sum(row.get("tokens", 0) for row in rows)
                found["answered"] += len(rows)
                save_manifest(folder, found)
                done += len(rows)
                told(done, total)
            found |= counted(plan, records)
    return len(missing)


def counted(plan: Plan, records: Records) -> Row:
    """Count the answers that are not there, and those that name none of the choices."""
    found = Counter(verdict(row, records.rows.get(row["key"])).outcome for row in plan.rows())
    return {"n_missing": found["missing"], "n_unparsed": found["unparsed"]}


def transcriber_of(model: AVChat, asking: Asking) -> Transcriber | None:
    """Get what transcribes, where a condition needs it; TranscriptError where there is none."""
    if "transcript_only" not in asking.conditions:
        return None
    if asking.whisper:
        return Transcriber(asking.whisper, str(model.device)).load()
    return model.transcriber.load()


class Run:
    """One pass over the clips of which answers are missing."""

    def __init__(
        self,
        model: AVChat,
        plan: Plan,
        missing: set[str],
        transcriber: Transcriber | None,
        found: Row,
    ) -> None:
        self.model, self.plan = model, plan
        self.transcriber, self.seconds, self.found = transcriber, found["seconds"], found
        self.frames = plan.asking.frames or model.config.frames
        self.wanted: dict[Part, list[tuple[Item, str]]] = defaultdict(list)
        left = set(missing)  # of two copies of a clip one is asked about
        for item in plan.items:
            for name in plan.asking.conditions:
                if plan.keys[item.id, name] in left:
                    left.remove(plan.keys[item.id, name])
                    self.wanted[part_of(item)].append((item, name))
        self.sounds: dict[Part, np.ndarray | None] = {}

    def answers(self, clips: int) -> Iterator[list[Row]]:
        """Yield the missing rows, some clips at a time; the next ones are decoded meanwhile."""
        parts = list(self.wanted)
        chunks = [parts[k : k + clips] for k in range(0, len(parts), clips)]
        with ThreadPoolExecutor(AHEAD) as pool:
            flying = [pool.submit(self._decode, chunk) for chunk in chunks[:AHEAD]]
            for k, chunk in enumerate(chunks):
                with self._timed("decode"):
                    media = flying.pop(0).result()
                self.found["clips_asked"] += len(chunk)
                if k + AHEAD < len(chunks):
                    flying.append(pool.submit(self._decode, chunks[k + AHEAD]))
                yield self._answer(chunk, media)

    def _decode(self, parts: Sequence[Part]) -> list[Media | MediaError]:
        return [one for some in in_orders(parts) for one in load_order(some, self.frames)]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - began

    def _answer(self, parts: list[Part], media: Sequence[Media | MediaError]) -> list[Row]:
        """Answer all that is missing about some clips."""
        clips = dict(zip(parts, media, strict=True))
        rows = [
            {"key": self.plan.keys[item.id, name], "error": " ".join(str(clip).split())}
            for part, clip in clips.items()
            if isinstance(clip, MediaError)
            for item, name in self.wanted[part]
        ]
        good = {part: clip for part, clip in clips.items() if isinstance(clip, Media)}
        self._remember(clips)
        with self._timed("encode"), torch.inference_mode():
            encoded = self.model.encode(list(good.values())) if good else []
            taken = {
                part: self._under(part, clip, full)
                for (part, clip), full in zip(good.items(), encoded, strict=True)
            }
        asked = [
            (item, name, taken[part][name]) for part in good for item, name in self.wanted[part]
        ]
        with self._timed("answer"):
            return rows + self._ask(asked, good)

    def _remember(self, clips: dict[Part, Media | MediaError]) -> None:
        """Keep the sounds that other clips may be given: those of this chunk."""
        if set(BORROWS) & set(self.plan.asking.conditions):
            self.sounds = {p: c.waveform for p, c in clips.items() if isinstance(c, Media)}

    def _under(self, part: Part, clip: Media, full: Any) -> dict[str, Taken]:
        names = [name for name in CONDITIONS if any(name == n for _, n in self.wanted[part])]
        other = self._other(part) if set(BORROWS) & set(names) else None
        how = {"shift_s": self.plan.asking.shift_s, "seed": self.plan.seeds[part]}
        return under(self.model, clip, full, names, other=other, **how)

    def _other(self, part: Part) -> np.ndarray | None:
        """Find another clip's sound: the first, of the clips that follow, that has one."""
        for other in self.plan.others[part]:
            if other not in self.sounds:
                [media] = self._decode([other])
                self.sounds[other] = media.waveform if isinstance(media, Media) else None
            wave = self.sounds[other]
            if wave is not None and len(wave):
                return wave
        return None

    def _ask(self, asked: list[tuple[Item, str, Taken]], media: dict[Part, Media]) -> list[Row]:
        """Ask in batches: what shares a sense, and whether answers are free."""
        groups: dict[tuple[str, bool, bool], list[tuple[Item, str, Taken]]] = defaultdict(list)
        for item, name, taken in asked:
            free = self.plan.asking.free or not item.choices
            groups[taken.sense, free, name == "transcript_only"].append((item, name, taken))
        rows = []
        for (_, free, reads), group in groups.items():
            lines = [self._lines(media[part_of(i)], i) for i, _, _ in group] if reads else None
            try:
                rows += self._batch(group, free, lines)
            except PromptError:  # one does not fit: each by itself, so that it fails alone
                for k, one in enumerate(group):
                    rows += self._alone(one, free, lines and lines[k : k + 1])
        return rows

    def _batch(
        self, group: list[tuple[Item, str, Taken]], free: bool, lines: list[Any] | None
    ) -> list[Row]:
        said = answer_batch(
            self.model,
            [taken.features for _, _, taken in group],
            [item.question for item, _, _ in group],
            sense=group[0][2].sense,
            choices=None if free else [item.choices for item, _, _ in group],
            lines=lines,
            max_new_tokens=self.plan.asking.max_new_tokens,
        )
        return [
            {
                "key": self.plan.keys[item.id, name],
                "said": words,
                "tokens": len(self.model.prompt.answer_ids(words)),
                **({} if taken.altered else {"unaltered": True}),
            }
            for (item, name, taken), words in zip(group, said, strict=True)
        ]

    def _alone(
        self, one: tuple[Item, str, Taken], free: bool, lines: list[Any] | None
    ) -> list[Row]:
        try:
            return self._batch([one], free, lines)
        except PromptError as error:
            key = self.plan.keys[one[0].id, one[1]]
            return [{"key": key, "error": " ".join(str(error).split())}]

    def _lines(self, clip: Media, item: Item) -> tuple[Line, ...]:
        """Write down what is said in a clip, as much of it as fits beside the question."""
        assert self.transcriber is not None
        taken = len(self.model.prompt.answer_ids(item.question))
        found = spoken([clip], self.transcriber)
        return fitting(found, self.model.prompt, taken, self.model.context) or ()
