"""The models behind the page: everything that computes with torch goes through here.

Several people are answered side by side: what computes holds `turn`, for one word or one batch of
windows at a time, never while somebody reads. What was encoded of a file is kept by its bytes, for
whoever opens the same file; keys and values of the conversations used last stay in memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from threading import Event, Lock
from typing import TypeVar
from weakref import ref

import numpy as np

from avchat.app_settings import Settings
from avchat.chat import Conversation
from avchat.config import PRESETS
from avchat.embedded import EmbeddedFile
from avchat.encoders import Features, Sense
from avchat.evidence import Evidence
from avchat.excerpts import LongConversation, is_long
from avchat.heads import BUNDLED, Head, Vectors, load_head
from avchat.media import Media, load_media
from avchat.model import AVChat
from avchat.projectors import PooledFeatures
from avchat.transcripts import Transcriber, TranscriptError
from avchat.ui.clips import Clip, Options
from avchat.ui.progress import Told
from avchat.ui.visitors import Refused, Stopped, holding
from avchat.ui.zero import Reach, reach

Talk = Conversation | LongConversation
Kept = Features | PooledFeatures
T = TypeVar("T")
NO_HEAD = "this app has no lookup head: it answers questions and finds nothing"


class SharedHead:
    """A lookup head that waits for its turn: a `Head` for whoever decodes meanwhile."""

    def __init__(self, head: Head, reach: Reach, turn: AbstractContextManager) -> None:
        """Take over what is known of the head."""
        self.reach, self.turn = reach, turn
        self.name, self.fingerprint, self.width = head.name, head.fingerprint, head.width
        self.frames, self.size, self.hears = head.frames, head.size, head.hears
        self.window_s, self.shortest_s = head.window_s, head.shortest_s
        self.threshold = head.threshold

    def clips(self, media: Sequence[Media]) -> list[Vectors]:
        """Give decoded clips their vectors."""
        with self.turn:
            return self.reach.clips(media)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Give texts their vectors, float32 [N, D]."""
        with self.turn:
            return self.reach.texts(texts)


class Engine:
    """A chat model and a lookup head, shared by everyone."""

    def __init__(self, settings: Settings) -> None:
        """Load the models; ModelError or TranscriptError where one cannot be had."""
        self.model = AVChat.from_pretrained(settings.model)
        self.head = head_of(settings)
        self.reach = reach(self.model, self.head, transcriber_of(settings, self.model))
        self.transcriber = self.reach.transcriber
        self.keep = settings.keep
        self.turn = self.reach.turn  # held by whoever computes
        self.shared_head, self.held_head = self.heads()
        self.listening = Lock()  # held by whoever writes down a whole file
        self.tables = Lock()  # held while the three below change
        self.encoded: OrderedDict[tuple, tuple[Media, Kept]] = OrderedDict()
        self.looked: OrderedDict[str, EmbeddedFile] = OrderedDict()  # whole, by the file's hash
        # Talks that hold keys and values, by their id(); whose person has left, those are gone.
        self.awake: OrderedDict[int, ref[Talk]] = OrderedDict()

    def heads(self) -> tuple[SharedHead | None, SharedHead | None]:
        """Make the lookup head that waits for its turn, and the one for whoever holds the turn."""
        if self.head is None:
            return None, None
        turns = self.turn, nullcontext()
        shared, held = (SharedHead(self.head, self.reach, turn) for turn in turns)
        return shared, held

    def talk(self, clip: Clip, options: Options, told: Told, stop: Event) -> Talk:
        """Return the talk about a clip under a view of it; decode and encode what it lacks.

        It goes on from everything that was said about the clip. MediaError, PromptError and
        TranscriptError say why there is none; Stopped, that the event was set meanwhile.
        """
        with holding(clip.lock, stop):
            talk = clip.talks.get(options.view)
            if talk is None:
                talk = self._open(clip, options, until(stop, told))
            carry_on(clip, talk)
            clip.talks.pop(options.view, None)
            clip.talks[options.view] = talk  # the last one is the one that goes on
        return talk

    def _open(self, clip: Clip, options: Options, told: Told) -> Talk:
        listener = self.transcriber if options.transcript else None
        plain = options.start is None and options.frames is None and not options.system
        if plain and self.head is not None and is_long(clip.info, self.model):
            told("looking through the clip", 0, 1)
            talk: Talk = LongConversation(
                self.model,
                self.shared_head,
                clip.path,
                isolate=True,
                transcript=listener,
                progress=lambda done, total: told("looking through the clip", done, total),
                begin=self.reach.begin,
            )
            talk.head = self.held_head  # its questions are asked while the turn is held
        else:
            media, features = self._encode(clip, options, told)
            with self.turn:
                talk = self.reach.begin(
                    self.model,
                    media,
                    transcript=listener,
                    features=[features],
                    system=options.system,
                )
        return talk

    def _encode(self, clip: Clip, options: Options, told: Told) -> tuple[Media, Kept]:
        """Decode and encode a clip, or a part of it, once for everyone."""
        key = clip.hash, options.start, options.end, options.frames
        with self.tables:
            if key in self.encoded:
                self.encoded.move_to_end(key)
                return self.encoded[key]
        told("decoding", 0, 2)
        media = load_media(
            clip.path,
            frames=options.frames or self.model.config.frames,
            start=options.start,
            end=options.end,
            isolate=True,
        )
        told("encoding", 1, 2)
        with self.turn:
            [features] = self.reach.encode([media])
        # The frames have done their work; at full size they would fill the memory.
        found = replace(media, frames=media.frames[:, :0, :0].copy()), features
        with self.tables:
            self.encoded[key] = found
            while len(self.encoded) > self.keep:
                self.encoded.popitem(last=False)
        return found

    def pieces(
        self, talk: Talk, question: str, sense: Sense, options: Options, stop: Event
    ) -> Iterator[str]:
        """Answer piece by piece, others between the pieces."""
        self._wake(talk)
        with self.turn:
            stream = talk.ask(
                question,
                sense,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=options.seed,
                max_new_tokens=options.max_new_tokens,
                stop=stop,
            )
        with closing(self.in_turn(stream)) as pieces:
            yield from pieces

    def in_turn(self, stream: Iterator[T]) -> Iterator[T]:
        """Compute each item of a stream while holding the turn; let others in between."""
        try:
            while True:
                with self.turn:
                    item = next(stream, None)
                if item is None:
                    return
                yield item
        finally:
            with self.turn:
                stream.close()

    def compute(self, work: Callable[[], T]) -> T:
        """Do one piece of work while holding the turn."""
        with self.turn:
            return work()

    def evidence(self, talk: Talk, turn: int) -> Evidence:
        """Weigh what an answer rests on."""
        return self.compute(lambda: talk.evidence(turn))

    def embedding(self, clip: Clip, told: Told, stop: Event) -> Iterator[EmbeddedFile]:
        """Embed a clip for lookup, as far as it is not yet; yield it each time it has grown, and
        once at least. A stop leaves what is there.

        Refused where the app has no lookup head; MediaError, MomentsError for a clip that cannot
        be searched.
        """
        if self.shared_head is None:
            raise Refused(NO_HEAD)
        with clip.looking:
            if clip.embedded is None:
                known = self.looked.get(clip.hash)
                clip.embedded = known or EmbeddedFile(self.shared_head, clip.path)
            for done in clip.embedded.embed(stop):
                told("looking through the clip", done, len(clip.embedded.windows))
                yield clip.embedded
            if clip.embedded.complete:
                self._note(clip)
        yield clip.embedded

    def _note(self, clip: Clip) -> None:
        """Keep what was embedded of a whole file for whoever opens the same bytes."""
        with self.tables:
            self.looked[clip.hash] = clip.embedded
            self.looked.move_to_end(clip.hash)
            while len(self.looked) > self.keep:
                self.looked.popitem(last=False)

    def texts(self, texts: list[str]) -> np.ndarray:
        """Give texts the lookup head's vectors, float32 [N, D]; Refused where there is none."""
        if self.shared_head is None:
            raise Refused(NO_HEAD)
        return self.shared_head.texts(texts)

    def drop(self, talk: Talk) -> None:
        """Note that a talk is over."""
        with self.tables:
            self.awake.pop(id(talk), None)

    def _wake(self, talk: Talk) -> None:
        """Note that a talk is used; let the ones used longest ago rest."""
        with self.tables:
            for number in [number for number, one in self.awake.items() if one() is None]:
                del self.awake[number]
            self.awake[id(talk)] = ref(talk)
            self.awake.move_to_end(id(talk))
            old = [self.awake.popitem(last=False)[1]() for _ in range(len(self.awake) - self.keep)]
        for one in old:
            with self.turn:
                if one is not None:
                    one.rest()


def until(stop: Event, told: Told) -> Told:
    """Make what tells of long work end it where the event is set: Stopped."""

    def tell(what: str, done: float, total: float) -> None:
        told(what, done, total)
        if stop.is_set():
            raise Stopped("stopped")

    return tell


def carry_on(clip: Clip, talk: Talk) -> None:
    """Let a talk go on from all that was said about a clip, under whatever view of it."""
    last = next(reversed(clip.talks.values()), None)
    said = last.now if isinstance(last, LongConversation) else last
    if said is not None and last is not talk:
        talk.after(said)


def head_of(settings: Settings) -> Head | None:
    """Load the lookup head that the settings name, if there is to be one."""
    own = settings.model in PRESETS and (BUNDLED / settings.model).is_dir()
    if settings.head == "auto":
        return load_head(settings.model) if own else None
    return None if settings.head == "none" else load_head(settings.head)


def transcriber_of(settings: Settings, model: AVChat) -> Transcriber | None:
    """Choose what writes down what is said: the Whisper that was named, or the model's own."""
    if settings.whisper is not None:
        return Transcriber(settings.whisper)
    try:
        return model.transcriber
    except TranscriptError:  # it hears with an encoder that no decoder goes with
        return None
