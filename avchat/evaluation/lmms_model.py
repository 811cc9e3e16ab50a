"""avchat as a model of lmms-eval: `lmms-eval --model avchat --model_args pretrained=tiny ...`.

The harness finds this by the entry point `lmms_eval.models`; nothing of avchat imports it. Two
classes, since the harness has two ways: messages with typed parts (chat), and a text with a list of
media (simple), which alone knows tasks of multiple choice. Arguments of a model:

    pretrained=tiny      preset, folder or Hub id
    frames=16            frames of a clip (default: as many as the model takes)
    use_audio=false      the model is deaf: an ablation without another task; use_picture likewise
    choices=true         where a task's document lists `choices`, answer with one of them
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from tqdm import tqdm

from avchat.batch import decode_together
from avchat.decoding import Said, Thread, picker
from avchat.encoders import Features, Sense
from avchat.evaluation.items import EvalError
from avchat.evaluation.lmms_media import Kind, media_of
from avchat.media import Media, MediaError
from avchat.model import AVChat
from avchat.prompt import PromptError, Turn, check_budget

MANIFEST = ModelManifest(
    "avchat",
    simple_class_path=f"{__name__}.AVChatSimple",
    chat_class_path=f"{__name__}.AVChatMessages",
)
SOUNDS = (".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".aac")
MOST_TOKENS = 1024  # where a task does not say
DECODERS = 4  # files that are decoded side by side, each in a process of its own
KEPT = 32  # clips whose features are kept: questions on one clip follow one another


class Asked(NamedTuple):
    """One request: media, the talk so far with its open question, and how to answer."""

    media: list[tuple[Kind, Any]]
    turns: list[Turn]
    how: dict[str, Any]
    choices: list[str] | None


class Pair(tuple[float, bool]):
    """How likely a continuation is, and whether it is the greedy one; lmms-eval's cache keeps none.

    Where `text` of a result has no words when it is stripped, ResponseCache leaves it out. What it
    kept it would read back as a list, of which the evaluator makes a text.
    """

    def strip(self) -> str:
        """Say that there is nothing to keep."""
        return ""


def check_arguments(switches: dict[str, object]) -> None:
    """Raise EvalError for a switch of --model_args that is neither true nor false."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise EvalError(f"--model_args: {name} is True or False, not {value!r:.40}")


class AVChatSimple(lmms):
    """The simple way: a text, and a list of media."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        frames: int | None = None,
        use_audio: bool = True,
        use_picture: bool = True,
        choices: bool = False,
        batch_size: int | str = 1,
        device: str | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        check_arguments({"use_audio": use_audio, "use_picture": use_picture, "choices": choices})
        if unknown:
            raise EvalError(f"--model_args: avchat has no {', '.join(sorted(unknown))}")
        place = card_of(device, os.environ, torch.cuda.device_count())
        self.model = AVChat.from_pretrained(pretrained, device=place).eval()
        self.frames = frames or self.model.config.frames
        senses: dict[tuple[bool, bool], Sense] = {
            (True, True): "both",
            (False, True): "picture",
            (True, False): "sound",
            (False, False): "none",
        }
        self.sense = senses[use_audio, use_picture]
        self.choices = choices
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 16  # "auto"
        self._features: dict[str, Features] = {}

    @property
    def device(self) -> torch.device:
        """Where the harness gathers the counts of several processes."""
        return self.model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer each request in the model's own words, `batch_size` at a time."""
        found: list[GenerationResult] = []
        bar = tqdm(total=len(requests), desc="avchat", disable=self.rank != 0)
        for k in range(0, len(requests), self.batch_size):
            some = requests[k : k + self.batch_size]
            found += self.answers([self.asked(request) for request in some])
            bar.update(len(some))
        bar.close()
        return found

    def asked(self, request: Instance) -> Asked:
        """Read a request: (text, how, media of a document, number, task, split)."""
        text, how, doc_to_visual, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        return Asked(parts_of(doc_to_visual(doc)), [Turn(text)], how, self._choices(doc))

    def _choices(self, doc: dict[str, Any]) -> list[str] | None:
        return (doc.get("choices") or None) if self.choices else None

    def answers(self, asked: Sequence[Asked]) -> list[GenerationResult]:
        """Answer requests together; what cannot be asked is told of, and answered by nothing."""
        found: dict[int, Said] = {}
        threads: dict[int, Thread] = {}  # by clip: what stands before the question is read once
        for k, (one, clip) in enumerate(zip(asked, self.encoded(asked), strict=True)):
            try:
                found[k] = self._said(one, clip, threads)
            except (MediaError, PromptError) as error:
                logger.warning(f"not answered, which counts as wrong here: {error}")
        free = {k: said for k, said in found.items() if asked[k].choices is None}
        picks = [pick_of(asked[k].how) for k in free]
        if free:
            decode_together(list(free.values()), picks=picks)
        bound = [k for k in found if k not in free]
        if bound:
            ids_of = self.model.prompt.answer_ids
            tries = [[ids_of(words) for words in asked[k].choices or ()] for k in bound]
            for k, answers in zip(bound, tries, strict=True):
                found[k].room = max(map(len, answers))
            decode_together([found[k] for k in bound], tries=tries)
        return [
            GenerationResult(
                text=until(found[k].text().strip(), one.how.get("until")) if k in found else "",
                token_counts=TokenCounts(
                    input_tokens=len(found[k].prompt) if k in found else 0,
                    output_tokens=len(found[k].ids) if k in found else 0,
                ),
            )
            for k, one in enumerate(asked)
        ]

    def _said(
        self, one: Asked, clip: list[Features] | MediaError, threads: dict[int, Thread]
    ) -> Said:
        """Lay out a talk on a clip; PromptError where it does not fit, or the clip's MediaError."""
        if isinstance(clip, MediaError):
            raise clip
        name = id(clip[0]) if clip else 0
        if name not in threads:
            threads[name] = Thread(self.model, [part.only(self.sense) for part in clip])
        thread = threads[name]
        ids = [t for turn in self.model.prompt.turns(one.turns) for t in turn.ids]
        room = int(one.how.get("max_new_tokens") or MOST_TOKENS)
        said = Said(thread, self.sense, [*thread.prefix, *ids], len(ids), room)
        check_budget(said.prompt, self.model.context)
        said.room = min(room, self.model.context - len(said.prompt))
        return said

    def encoded(self, asked: Sequence[Asked]) -> list[list[Features] | MediaError]:
        """See and hear what requests bring, each one clip or none; several are decoded side by
        side. Of clips that are paths the last ones are kept.
        """
        names = [
            repr(one.media) if all(isinstance(v, str) for _, v in one.media) else f"request {k}"
            for k, one in enumerate(asked)
        ]
        new = {n: one.media for n, one in zip(names, asked, strict=True) if n not in self._features}
        with ThreadPoolExecutor(DECODERS) as pool:
            decoded = dict(zip(new, pool.map(self._decoded, new.values()), strict=True))
        clips = {name: one for name, one in decoded.items() if isinstance(one, Media)}
        encoded = dict(zip(clips, self.model.encode(list(clips.values())), strict=True))
        found: dict[str, list[Features] | MediaError] = {
            name: one if isinstance(one, MediaError) else [encoded[name]] if name in encoded else []
            for name, one in decoded.items()
        }
        found |= {name: [self._features[name]] for name in names if name in self._features}
        self._features |= {name: one for name, one in encoded.items() if name[0] == "["}
        for old in list(self._features)[:-KEPT]:
            del self._features[old]
        return [found[name] for name in names]

    def _decoded(self, media: list[tuple[Kind, Any]]) -> Media | MediaError | None:
        try:
            return media_of(media, self.frames)
        except MediaError as error:
            return error

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Say how likely a continuation is as the whole answer, with its end, and whether it is
        what would be said greedily.

        The pair travels in a GenerationResult: lmms-eval 0.7.3 makes a text of a bare pair.
        """
        found = []
        thread, before = None, None
        for request in tqdm(requests, desc="avchat", disable=self.rank != 0):
            text, continuation, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            words = continuation(doc) if callable(continuation) else continuation
            if before != (task, split, doc_id, text):  # one document's choices share what is read
                before = task, split, doc_id, text
                thread = self._thread(Asked(parts_of(doc_to_visual(doc)), [Turn(text)], {}, None))
            pair = (-torch.inf, False) if thread is None else self._likelihood(*thread, words)
            found.append(GenerationResult(text=Pair(pair)))
        return found

    def _thread(self, one: Asked) -> tuple[Thread, torch.Tensor] | None:
        """Read a clip and a question; return the logits [V] of what comes next."""
        try:
            said = self._said(one, self.encoded([one])[0], {})
        except (MediaError, PromptError) as error:
            logger.warning(f"not answered, which counts as wrong here: {error}")
            return None
        return said.thread, said.thread.feed(said.prompt)

    def _likelihood(self, thread: Thread, logits: torch.Tensor, words: str) -> tuple[float, bool]:
        read, total, greedy = len(thread.ids), 0.0, True
        for token in self.model.prompt.answer_ids(words):
            chances = logits.float().log_softmax(-1)
            total += float(chances[token])
            greedy = greedy and int(chances.argmax()) == token
            logits = thread.feed([token])
        thread.cut(read)
        return total, greedy

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Answer round after round, as the task asks anew from what was said; a list a request."""
        found = []
        for request in tqdm(requests, desc="avchat", disable=self.rank != 0):
            said: list[str] = []
            for one in self.rounds(request, said):
                said.append(self.answers([one])[0].text)
            found.append(said)
        return found

    def rounds(self, request: Instance, said: list[str]) -> Iterator[Asked]:
        """Yield each round of a request; `said` holds the answers to those before."""
        text, how, doc_to_visual, doc_to_text, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        yield Asked(parts_of(doc_to_visual(doc)), [Turn(text)], how, None)
        info = None
        while True:
            media, text, over, _, info = doc_to_text(
                doc,
                previous_output=list(said),
                round_idx=len(said),
                previous_round_info=info,
            )
            if over:
                return
            yield Asked(parts_of(media), [Turn(text)], how, None)


class AVChatMessages(AVChatSimple):
    """The chat way: messages of typed parts, which may hold a talk."""

    is_simple = False

    def asked(self, request: Instance) -> Asked:
        """Read a request: (text, messages of a document, how, number, task, split)."""
        _, doc_to_messages, how, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        return self._of_messages(doc_to_messages(doc), how, self._choices(doc))

    @staticmethod
    def _of_messages(messages: Any, how: dict[str, Any], choices: list[str] | None) -> Asked:
        media: list[tuple[Kind, Any]] = []
        turns: list[Turn] = []
        text: list[str] = []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            words = [part["text"] for part in parts if part["type"] == "text"]
            media += [
                (part["type"], part.get("url", part.get(part["type"])))
                for part in parts
                if part["type"] != "text"
            ]
            if message["role"] == "assistant":
                turns.append(Turn("\n".join(text), " ".join(words)))
                text = []
            else:  # a system's text stands before the question
                text += words
        return Asked(media, [*turns, Turn("\n".join(text))], how, choices)

    def rounds(self, request: Instance, said: list[str]) -> Iterator[Asked]:
        """Yield each round of a request; `said` holds the answers to those before."""
        _, doc_to_messages, how, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        info = None
        while True:
            messages, over, _, info = doc_to_messages(
                doc,
                round_idx=len(said),
                previous_output=list(said),
                previous_round_info=info,
            )
            if over:
                return
            yield self._of_messages(messages, how, None)


def card_of(device: str | None, environ: Mapping[str, str], cards: int) -> str | None:
    """Name where a process loads its model: of several started together each has its own card.

    Args: device: as the harness was told; environ: of a launcher; cards: that this process sees,
    which may be its own alone.
    """
    alone = int(environ.get("WORLD_SIZE", 1)) < 2
    if alone or not cards or device not in (None, "", "cuda"):
        return device or None
    return f"cuda:{int(environ.get('LOCAL_RANK', 0)) % cards}"


def parts_of(visuals: Any) -> list[tuple[Kind, Any]]:
    """Type a task's media: a path by its ending, a dict of samples as sound, the rest as video."""
    found: list[tuple[Kind, Any]] = []
    for one in visuals or []:
        if isinstance(one, dict):
            sound = "array" in one or "sampling_rate" in one
            found.append((one.get("type") or ("audio" if sound else "video"), one))
        elif isinstance(one, str):
            found.append(("audio" if one.lower().endswith(SOUNDS) else "video", one))
        else:
            found.append(("video", one))
    return found


def pick_of(how: dict[str, Any]) -> Callable[[torch.Tensor], int]:
    """Choose how tokens are taken: the likeliest, unless a task asks for a temperature."""
    warm = how.get("do_sample", True) is not False
    temperature = float(how.get("temperature") or 0.0) if warm else 0.0
    return picker(temperature, float(how.get("top_p") or 1.0), seed=0)


def until(text: str, stops: str | Sequence[str] | None) -> str:
    """Cut an answer before the first of some texts."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        text = text.split(stop)[0] if stop else text
    return text.strip()
