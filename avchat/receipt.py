"""A receipt in words: what an answer rests on, said alike on the command line and the page.

Enters: the `Receipt` of an answer. Leaves: sentences.
"""

from avchat.chat import Receipt


def in_words(receipt: Receipt, notice: str = "") -> str:
    """Say what was seen and heard, what could not be, and how long the first word took.

    Args: notice: the warning that the caller shows in its own way.
    """
    seen, heard, timing = receipt.seen, receipt.heard, receipt.timing
    used = []
    if seen.frames:
        used.append("saw 1 frame" if seen.frames == 1 else f"saw {seen.frames} frames")
        used[-1] += f" over {seen.seconds:.1f} s" if seen.seconds else ""
    if heard.seconds:
        used.append(f"heard {heard.seconds:.1f} s of sound")
    sentences = [" and ".join(used)] if used else []
    if receipt.excerpts:
        parts = ", ".join(f"{x.start:.1f} to {x.end:.1f} s" for x in receipt.excerpts)
        sentences.append(f"this file is long: the parts that fit the question best were {parts}")
    if receipt.transcript is not None:
        sentences.append(_heard_as_text(receipt.transcript))
    sentences += [warning for warning in receipt.warnings if warning != notice]
    kept = ", the clip was kept in memory" if not timing.media_s + timing.encode_s else ""
    sentences.append(f"first word after {timing.first_token_s:.2f} s{kept}")
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _heard_as_text(transcript: str) -> str:
    """Say what came of a transcript (WebVTT, where an arrow stands in timings alone)."""
    lines = transcript.count(" --> ")
    if not lines:
        return "no speech was found"
    return f"heard through a transcript of {lines} line{'s' if lines > 1 else ''}"
