"""Transcripts with what else a conversation can do: evidence, and files of questions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import TIMELINE_CONFIG, build_model, write_speaker
from test_spoken import SAID, TALK, ask, open_talk

from avchat.batch_lines import read_lines
from avchat.batch_run import Asking, answer_lines
from avchat.config import AudioConfig
from avchat.decoding import Thread
from avchat.model import AVChat


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AVChat:
    """A model that hears by the encoder of a whole Whisper."""
    speaker = write_speaker(tmp_path_factory.mktemp("whisper") / "speaker.pt", TALK)
    return build_model(replace(TIMELINE_CONFIG, audio=AudioConfig(hub=str(speaker))), seed=3)


def test_without_the_sound_evidence_lacks_the_transcript_too(model: AVChat) -> None:
    talk = open_talk(model)
    assert ask(talk, "which object?")
    found, turn = talk.evidence(), talk._turns[0]
    assert talk._threads["both"].lines and talk._threads["picture"].lines is None
    chances = []
    for sense, lines in (("both", SAID), ("picture", None)):
        parts = [part.only(sense) for part in talk.features]
        prefix = Thread(model, parts, lines).prefix
        ids = torch.tensor([[*prefix, *turn.ids[:-1]]])
        with torch.inference_mode():
            logits = model.language(inputs_embeds=model.embed(ids, model.project(parts))).logits
        said = torch.tensor(turn.answer[:-1])
        rows = logits[0, -len(said) - 1 : -1].log_softmax(-1)
        chances.append(float(rows.gather(1, said[:, None]).sum()))
    assert found.lost.sound == pytest.approx(chances[0] - chances[1], abs=2e-3)


def test_a_file_of_questions_is_answered_with_transcripts(
    model: AVChat, clip: Path, tmp_path: Path
) -> None:
    lines = [{"video": str(clip), "question": text} for text in ("which object?", "a star?")]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chunks = answer_lines(model, read_lines(path), Asking(max_new_tokens=6), model.transcriber)
    rows = [row for chunk in chunks for row in chunk.rows]
    for line, row in zip(lines, rows, strict=True):
        alone = model.open(clip, transcript=model.transcriber)
        assert row["answer"] == ask(alone, line["question"]).strip()
        assert row["transcript"] == alone.receipt.transcript and "red circle" in row["transcript"]
