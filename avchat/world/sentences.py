"""Sentences about a whole clip, and how a sentence answer is scored."""

from collections.abc import Iterable

from avchat.world.answers import ACTS
from avchat.world.scenes import COLOURS, PLACES, SHAPES, SLOT_S, SLOTS, Object, Scene

TIMES = {1: "one time", 2: "two times", 3: "three times", 4: "four times"}


def description(scene: Scene) -> str:
    """Describe objects, then the kinds of sound."""
    return f"{seen(scene)} {heard(scene)}".strip()


def seen(scene: Scene) -> str:
    """Describe the objects, from the top left on."""
    objects = sorted(scene.objects, key=lambda o: PLACES.index(o.place))
    return " ".join(_describe_object(o) for o in objects)


def heard(scene: Scene) -> str:
    """List the kinds of sound, in order."""
    if not scene.sounds:
        return "there is no sound."
    kinds = dict.fromkeys(
        f"the word {s.word}" if s.kind == "word" else f"the {s.kind}" for s in scene.sounds
    )
    return f"the sounds are {', '.join(kinds)}."


def _describe_object(obj: Object) -> str:
    moves = "stays still" if obj.motion == "still" else f"moves {obj.motion}"
    acts = f" and {ACTS[obj.events[0].kind]} {TIMES[len(obj.events)]}" if obj.events else ""
    return f"a {obj.size} {obj.name} at the {obj.place} {moves}{acts}."


def timeline(scene: Scene) -> str:
    """Say for each slot in which something happens what is heard and which object acts."""
    rows = [row for slot in range(SLOTS) if (row := _row(scene, slot))]
    return " ".join(rows) if rows else "nothing happens."


def _row(scene: Scene, slot: int) -> str:
    sounds = [
        f"the word {s.word}" if s.kind == "word" else f"the {s.kind}"
        for s in scene.sounds
        if s.slot == slot
    ]
    acts = [
        f"the {o.name} {ACTS[e.kind]}" for o in scene.objects for e in o.events if e.slot == slot
    ]
    if not sounds and not acts:
        return ""
    return f"{(slot + 0.5) * SLOT_S:.2f}s: {', '.join(sounds + sorted(acts))}."


def slots_right(answer: str, truth: str) -> float:
    """Score a sentence answer: F1 over its statements (eval.md 6.2, slot recall and precision),
    0..1.

    A statement is a word with the sentence that it stands in, sentences being matched by what they
    are about: the object's name or the time.
    """
    said, true = _statements(answer), _statements(truth)
    right = len(said & true)
    return 2 * right / (len(said) + len(true)) if said or true else 1.0


def _statements(text: str) -> set[tuple[str, str]]:
    sentences = [s.strip() for s in text.lower().replace(". ", ".\n").splitlines() if s.strip()]
    return {(_topic(s), word) for s in sentences for word in _facts(s)}


def _topic(sentence: str) -> str:
    named = [f"{c} {s}" for c, s in _pairs() if f"{c} {s}" in sentence]
    return sentence.split(":")[0] if ":" in sentence else named[0] if named else "sounds"


def _pairs() -> Iterable[tuple[str, str]]:
    return ((c, s) for c in COLOURS for s in SHAPES)


def _facts(sentence: str) -> set[str]:
    """Split what a sentence says into comparable pieces: list items after a colon or "are",
    else words that carry meaning.
    """
    body = sentence.rstrip(".")
    if ":" in body or body.startswith("the sounds are"):
        return {
            item.strip() for item in body.split(":")[-1].removeprefix("the sounds are").split(",")
        }
    return {w for w in body.split() if w not in ("a", "the", "at", "and", "there", "is")}
