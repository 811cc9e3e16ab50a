"""What the left of the page shows of a clip: its card, the player, the timeline with its lanes."""

import html
from typing import Any

import numpy as np

from avchat.chat import Conversation
from avchat.ui import player, timeline
from avchat.ui.clips import Clip


def card(clip: Clip) -> str:
    """Say what a clip is, and what of it could not be used."""
    warnings: list[str] = []
    for talk in clip.talks.values():
        if isinstance(talk, Conversation):
            warnings += [warning for part in talk.media for warning in part.warnings]
        else:
            warnings += talk.warnings
    return "<br>".join([clip.card(), *map(html.escape, dict.fromkeys(warnings))])


def screen_value(clip: Clip) -> dict[str, Any]:
    """Give the player its clip."""
    return player.shown(
        clip.shown,
        clip.kind,
        clip.name,
        key=clip.id,
        subtitles=clip.subtitles,
        fps=clip.info.fps or None,
    )


def line_value(
    clip: Clip, span: tuple[float, float] | str | None = timeline.KEEP
) -> dict[str, Any] | None:
    """Give the timeline what is known of a clip; a still picture has none. span: as in `drawn`."""
    if clip.info.is_still:
        return None
    contour = clip.contour
    return timeline.drawn(
        clip.duration_s,
        key=clip.id,
        loudness=None if contour is None or contour.loudness is None else contour.loudness.tolist(),
        cuts=() if contour is None else contour.cuts_s,
        lanes=lanes_of(clip),
        pins=[pin for exchange in clip.exchanges for pin in exchange.pins],
        has_audio=clip.info.has_audio,
        span=span,
    )


def lanes_of(clip: Clip) -> list[timeline.Lane]:
    """Draw what the last question or search scored, for each sense that the clip has."""
    curve = clip.curve
    if curve is None:
        return []
    times, sound, picture = curve.times_s, curve.sound, curve.picture
    if len(times) == 1:  # one window is the whole clip
        times = np.array([curve.starts_s[0], curve.ends_s[0]])
        sound, picture = sound.repeat(2), picture.repeat(2)
    lanes = []
    if clip.info.has_audio:
        lanes.append(timeline.Lane("sound", "A", "stripes", times.tolist(), sound.tolist()))
    if clip.info.has_video:
        lanes.append(timeline.Lane("picture", "V", "dots", times.tolist(), picture.tolist()))
    return lanes
