"""The controls that make the world a measurement (shared/research/eval.md 6.3), each asserted."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace

import av
import numpy as np
import pytest

from avchat.world import casting, dataset, questions, scenes, swaps
from avchat.world.answers import find
from avchat.world.lessons import CHECK_STREAM, NOT_KNOWN, Mix, description_for, draw_lesson
from avchat.world.perception import perceive
from avchat.world.phrasings import HELD_OUT, PHRASINGS
from avchat.world.pictures import render_frames
from avchat.world.questions import FAMILIES, NO_PICTURE, NO_SOUND
from avchat.world.sentences import description, slots_right, timeline
from avchat.world.tags import FRAME_TIMES_S, NOT_YET, tag

CLIPS = 400


@pytest.fixture(scope="module")
def clips() -> list[dataset.Clip]:
    return dataset.draw_dataset(CLIPS, seed=7)


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    rng = np.random.default_rng(3)
    return [casting.draw_scene(rng, casting.draw_kind(rng)) for _ in range(4000)]


def short(clips: list[dataset.Clip]) -> list[tuple[dataset.Clip, questions.Question]]:
    return [(clip, q) for clip in clips for q in clip.asked if q.choices]


@pytest.mark.slow
def test_same_seed_same_dataset_and_other_seed_another(clips: list[dataset.Clip]) -> None:
    assert dataset.draw_dataset(CLIPS, seed=7) == clips
    assert dataset.draw_dataset(CLIPS, seed=8) != clips
    assert [c.scene for c in dataset.draw_dataset(9, 7, "train")] != [c.scene for c in clips[:9]]


def test_the_oracle_answers_all_at_the_models_own_frame_rate(clips: list[dataset.Clip]) -> None:
    for clip, question in short(clips):
        seen = perceive(clip.scene, FRAME_TIMES_S)
        answer = FAMILIES[question.family].answer(seen, dict(question.args))
        assert answer == question.answer, (clip, question)


def test_the_oracle_fails_when_it_misses_the_frames(clips: list[dataset.Clip]) -> None:
    """At slot borders no event shows: the oracle really reads frames."""
    late = FRAME_TIMES_S + scenes.SLOT_S / 2
    wrong = [
        FAMILIES[q.family].answer(perceive(c.scene, late[:-1]), dict(q.args)) != q.answer
        for c, q in short(clips)
        if q.family == "which_object"
    ]
    assert wrong and all(wrong)


def test_every_question_passes_the_intervention_filter(clips: list[dataset.Clip]) -> None:
    for clip, question in short(clips):
        on_sound, on_picture = questions.depends_on(clip.scene, question)
        expected = {"V": (False, True), "A": (True, False), "S": (True, False), "AV": (True, True)}
        assert (on_sound, on_picture) == expected[question.needs], (clip, question)


def test_minimal_pairs_share_the_question_and_one_sense_and_differ_in_the_answer(
    clips: list[dataset.Clip],
) -> None:
    pairs = defaultdict(list)
    for clip in clips:
        pairs[clip.name.rstrip("ab")].append(clip)
    twins = [pair for pair in pairs.values() if len(pair) == 2]
    assert len(twins) > CLIPS / 8
    for first, second in twins:
        assert first.scene.sounds == second.scene.sounds or (
            first.scene.objects == second.scene.objects
        )
        crossed = [[q for q in c.asked if q.needs == "AV" and q.choices] for c in (first, second)]
        asked = [[(q.question, q.answer) for q in qs] for qs in crossed]
        assert sorted(q for q, _ in asked[0]) == sorted(q for q, _ in asked[1])
        assert not set(asked[0]) & set(asked[1])


def test_answers_are_balanced_within_5_percent_in_each_family(clips: list[dataset.Clip]) -> None:
    counts = defaultdict(Counter)
    for _, question in short(clips):
        side = dataset._side(question)
        counts[question.family][side] += 1
    for family, found in counts.items():
        total = sum(found.values())
        allowed = max(0.05 * total, 2)  # a family of few questions cannot be closer than whole ones
        assert max(found.values()) - min(found.values()) <= allowed or len(found) > 8, (
            family,
            found,
        )
        assert max(found.values()) <= total / len(found) + allowed, (family, found)


def test_answers_do_not_hang_on_the_number_of_objects_or_the_wording(
    drawn: list[scenes.Scene],
) -> None:
    """Binary answers stay near one half for every number of objects and length of question."""
    rng = np.random.default_rng(0)
    by_cue: dict = defaultdict(list)
    for scene in drawn:
        for question in questions.every_question(scene, rng):
            if len(question.choices) == 2 and question.family not in ("order", "sound_order"):
                if question.family in ("word_kind", "offscreen", "sync", "rhythm"):
                    continue  # balanced when a dataset is chosen, tested above
                first = question.answer == question.choices[0]
                by_cue[question.family, "objects", len(scene.objects)].append(first)
                by_cue[question.family, "words", len(question.question.split())].append(first)
    for cue, sides in by_cue.items():
        deviation = abs(np.mean(sides) - 0.5)
        assert deviation < 0.05 + 3 * 0.5 / len(sides) ** 0.5, (cue, np.mean(sides), len(sides))


def test_a_sound_is_bound_to_no_look(drawn: list[scenes.Scene]) -> None:
    """Colour, shape and event say nothing about the sound: the mapping is drawn afresh per clip."""
    for part in ("colour", "shape"):
        heard = defaultdict(Counter)
        for scene in drawn:
            for obj in scene.actors:
                for sound in scene.sounds_at(obj)[:1]:
                    if sound.kind != "word":
                        heard[getattr(obj, part)][sound.kind] += 1
        for found in heard.values():
            shares = np.array([found[s] for s in scenes.SOUNDS]) / sum(found.values())
            assert shares.max() < 2 / len(scenes.SOUNDS), (part, found)


def test_held_out_combinations_are_never_trained_or_tested_and_fill_their_own_split(
    drawn: list[scenes.Scene], clips: list[dataset.Clip]
) -> None:
    lessons = [draw_lesson(0, k).scene for k in range(1500)]
    lessons += [draw_lesson(0, k, stream=CHECK_STREAM).scene for k in range(200)]
    crossed = [
        s for s in [*drawn, *lessons, *(c.scene for c in clips)] if s.kind in scenes.CROSS_MODAL
    ]
    assert crossed and not any(scenes.held_out_pairs(s) for s in crossed)
    for clip in dataset.draw_dataset(60, 1, "combinations"):
        heard = [o for o in clip.scene.actors if clip.scene.sounds_at(o)]
        assert heard and scenes.held_out_pairs(clip.scene) == len(heard)
    share = np.mean(
        [
            scenes.is_held_out(c, s, k)
            for c in scenes.COLOURS
            for s in scenes.SHAPES
            for k in scenes.SOUNDS
        ]
    )
    assert share == 1 / 8


def words(phrasing: str) -> list[str]:
    return re.findall(r"[{}\w]+", phrasing)


def test_a_focus_asks_one_family_in_most_clips_about_each_actor() -> None:
    """Both answers must come about one and the same clip, or the clip alone would tell."""
    plain = [draw_lesson(0, k, mix=Mix(last=True)) for k in range(200)]
    lessons = [draw_lesson(0, k, mix=Mix(last=True, focus="sync")) for k in range(200)]
    asked = [sum(lesson.scene.kind == "one source" for lesson in some) for some in (plain, lessons)]
    assert asked[0] < 50 < 110 < asked[1] < 160
    clips = [lesson for lesson in lessons if lesson.scene.kind == "one source"]
    said = [{turn.answer for turn in lesson.turns} for lesson in clips if lesson.sense == "both"]
    assert sum({"yes", "no"} <= answers for answers in said) > len(said) / 2


def test_phrasings_are_ten_or_more_and_the_held_out_ones_are_new_ways_in_known_words() -> None:
    assert set(PHRASINGS) == {*FAMILIES, *questions.SENTENCES}
    known = {w for family in PHRASINGS for p in questions.phrasings(family) for w in words(p)}
    for family in PHRASINGS:
        seen, held_out = questions.phrasings(family), questions.phrasings(family, "held out")
        assert len(set(seen) | set(held_out)) >= 10 and len(held_out) == HELD_OUT == 3
        assert not set(seen) & set(held_out)
        assert {w for p in held_out for w in words(p)} <= known, family
    asked = {q.question for c in dataset.draw_dataset(40, 1, "phrasings") for q in c.asked}
    trained = {t.question for k in range(300) for t in draw_lesson(0, k).turns}
    assert not asked & trained


@pytest.mark.parametrize("kind", sorted(scenes.CROSS_MODAL))
def test_swaps_keep_one_sense_and_change_the_other(kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        scene = casting.draw_scene(rng, kind)
        for other in swaps.sound_swaps(scene):
            assert other.objects == scene.objects and other.sounds != scene.sounds
            assert Counter(s.kind for s in other.sounds) == Counter(s.kind for s in scene.sounds)
        for other in swaps.picture_swaps(scene):
            assert other.sounds == scene.sounds and other.objects != scene.objects
            names = [(o.name, len(o.events)) for o in other.objects]
            assert names == [(o.name, len(o.events)) for o in scene.objects]


def test_a_lesson_without_a_sense_teaches_to_say_so() -> None:
    lessons = [draw_lesson(0, k) for k in range(400)]
    for sense, words in (("picture", NO_SOUND), ("sound", NO_PICTURE)):
        told = [t.answer for lesson in lessons if lesson.sense == sense for t in lesson.turns]
        assert 0.2 < np.mean([a == words for a in told]) < 1
    assert not any(
        t.answer in (NO_SOUND, NO_PICTURE) for x in lessons if x.sense == "both" for t in x.turns
    )


def test_of_a_stranger_a_lesson_says_what_is_missing_or_that_it_is_not_known() -> None:
    strangers = [lesson for k in range(600) if (lesson := draw_lesson(0, k)).strange]
    assert 20 < len(strangers) < 80
    assert {lesson.sense for lesson in strangers} == {"both", "picture", "sound"}
    for lesson in strangers:
        missing = {"picture": NO_SOUND, "sound": NO_PICTURE}.get(lesson.sense, "")
        told = {t.answer for t in lesson.turns}
        assert told <= {NOT_KNOWN, missing, f"{missing} {NOT_KNOWN}"}
        if lesson.sense != "sound":  # of a sound often nothing is asked that needs no picture
            assert NOT_KNOWN in told
    others = [draw_lesson(0, k, strangers=False) for k in range(100)]
    assert not any(NOT_KNOWN in turn.answer for lesson in others for turn in lesson.turns)
    first, second = strangers[:2]
    assert (first.frames(64) != second.frames(64)).any()
    assert not np.array_equal(first.frames(64), render_frames(first.scene, FRAME_TIMES_S, 64))
    for lesson in strangers:
        frames, wave = lesson.frames(64), lesson.waveform()
        assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
        assert wave.shape == (64_000,) and wave.dtype == np.float32 and np.abs(wave).max() <= 1


def test_a_description_without_a_sense_tells_the_other() -> None:
    scene = draw_lesson(0, 3).scene
    seen, heard = description_for(scene, "picture"), description_for(scene, "sound")
    assert all(o.name in seen and o.name not in heard for o in scene.objects)
    assert seen.endswith("there is no sound.") and heard.startswith(NO_PICTURE)
    assert description(scene).removeprefix(seen.removesuffix("there is no sound.")) in heard


def test_a_visit_asks_the_same_clip_other_questions() -> None:
    first, second = draw_lesson(0, 5, visit=0), draw_lesson(0, 5, visit=1)
    assert first.scene == second.scene and first.turns != second.turns
    assert draw_lesson(0, 5, visit=1) == second


def test_sentences_are_scored_by_their_statements(drawn: list[scenes.Scene]) -> None:
    scene = next(s for s in drawn if len(s.objects) == 3 and s.kind == "two sources")
    for say in (description, timeline):
        truth = say(scene)
        assert slots_right(truth, truth) == 1
        assert slots_right("", truth) == 0
        assert 0 < slots_right(truth.replace(scene.objects[0].colour, "white"), truth) < 1
    half = description(replace(scene, objects=scene.objects[:1]))
    assert 0 < slots_right(half, description(scene)) < 1


def test_tags_say_what_each_slot_shows_sounds_like_and_adds_to_those_before() -> None:
    actor = scenes.Object(
        "star",
        "blue",
        "big",
        "bottom left",
        "up",
        (scenes.Event(1, "jump"), scenes.Event(4, "jump")),
    )
    sounds = (
        scenes.Sound(1, "drum", "low"),
        scenes.Sound(2, "click", "high"),
        scenes.Sound(4, "drum", "high"),
        scenes.Sound(7, "word", word="two", voice="man"),
    )
    tags = tag(scenes.Scene(1, (actor,), sounds))
    blue, star = scenes.COLOURS.index("blue") + 1, scenes.SHAPES.index("star") + 1
    assert (tags.seen["colour"][:, 2] == blue).all() and not tags.seen["colour"][:, [0, 1, 3]].any()
    assert tags.seen["event"][:, 2].nonzero()[0].tolist() == [1, 4]
    assert tags.acting["actor_shape"].tolist() == [0, star, 0, 0, star, 0, 0, 0]
    assert tags.heard["word"].nonzero()[0].tolist() == [7]
    assert tags.seen_so_far["events"][:, 2].tolist() == [1, 2, 2, 2, 3, 3, 3, 3]
    assert tags.seen_so_far["motion"][:3, 2].tolist() == [NOT_YET, NOT_YET, 4]
    assert tags.heard_so_far["same"].tolist() == [0, 1, 1, 0, 2, 0, 0, 1]
    assert tags.heard_so_far["all"].tolist() == [0, 1, 2, 0, 3, 0, 0, 4]
    assert tags.heard_so_far["gap"].tolist() == [0, 0, 1, 0, 2, 0, 0, 3]
    assert tags.heard_so_far["even"].tolist() == [0, 0, 0, 0, 2, 0, 0, 2]
    assert tags.heard_so_far["pitch"].tolist() == [0, 0, 0, 0, 2, 0, 0, 0]
    assert tags.centres[0, 2, 1] > tags.centres[7, 2, 1]  # it moves up


def test_references_name_one_object_or_none(drawn: list[scenes.Scene]) -> None:
    for scene in drawn[:300]:
        for obj in scene.objects:
            assert find(scene, obj.name) == obj
            assert find(scene, f"object at the {obj.place}") == obj
            same = [o for o in scene.objects if o.shape == obj.shape]
            assert (find(scene, obj.shape) == obj) == (len(same) == 1)


def test_files_and_questions_are_written_and_resumed(tmp_path) -> None:
    clips = dataset.write_dataset(tmp_path, 4, seed=5)
    names = sorted(p.name for p in tmp_path.glob("*.mp4"))
    assert names == sorted(f"{c.name}.mp4" for c in clips) and len(names) == 4
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert {tuple(row) for row in rows} == {
        ("id", "video", "family", "needs", "question", "answer", "choices")
    }
    assert len({row["id"] for row in rows}) == len(rows) == sum(len(c.asked) for c in clips)
    written = (tmp_path / names[0]).stat().st_mtime_ns
    dataset.write_dataset(tmp_path, 4, seed=5)
    assert (tmp_path / names[0]).stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="other clips"):
        dataset.write_dataset(tmp_path, 4, seed=6)


def test_what_a_file_weighs_tells_nothing(tmp_path) -> None:
    """Guessing "in time or not" from size, bit rate and duration alone is at chance."""
    clips = [c for c in dataset.draw_dataset(220, 11) if any(q.family == "sync" for q in c.asked)]
    clips = clips[:48]
    for clip in clips:
        dataset.write_clip(clip.scene, tmp_path / f"{clip.name}.mp4")
    seen, right = [], []
    for clip in clips:
        path = tmp_path / f"{clip.name}.mp4"
        with av.open(str(path)) as file:
            seen.append([path.stat().st_size, file.bit_rate, file.duration])
        right.append(next(q.answer for q in clip.asked if q.family == "sync") == "yes")
    values, truth = np.array(seen, float), np.array(right)
    values = (values - values.mean(0)) / (values.std(0) + 1e-9)
    hits = []
    for k in range(len(values)):
        rest = np.arange(len(values)) != k
        means = [values[rest & (truth == side)].mean(0) for side in (False, True)]
        distances = [np.abs(values[k] - m).sum() for m in means]
        hits.append((distances[1] < distances[0]) == truth[k])
    assert abs(np.mean(hits) - 0.5) < 3 * 0.5 / len(hits) ** 0.5
