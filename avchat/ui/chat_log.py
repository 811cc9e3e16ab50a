"""A talk as people read it: messages for the page, a file to keep.

What a model or a person says is text: it is escaped, and times in answers become links that seek.
"""

import html
import json
from collections.abc import Iterator, Sequence
from typing import Any

from avchat.chat import Receipt
from avchat.evidence import Evidence
from avchat.receipt import in_words
from avchat.ui.asking import Compared, times_in
from avchat.ui.clips import Clip, Exchange, moment

SENSE_WORDS = {"both": "sound + picture", "sound": "sound only", "picture": "picture only"}
WAITING = "Waiting: the clip is being prepared, or others are asking ..."


def messages(exchanges: Sequence[Exchange], notice: str) -> list[dict[str, str]]:
    """Lay a talk out for `gr.Chatbot`. Args: notice: what stands atop the page already."""
    found = []
    for number, exchange in enumerate(exchanges):
        found.append({"role": "user", "content": asked(exchange)})
        found.append({"role": "assistant", "content": said(exchange, number, notice)})
    return found


def asked(exchange: Exchange) -> str:
    """Write a question, with the range that it is about and the senses it leaves out."""
    options, marks = exchange.options, []
    if options.start is not None and options.end is not None:
        marks.append(f"{moment(options.start)} to {moment(options.end)}")
    if exchange.sense != "both":
        marks.append(SENSE_WORDS[exchange.sense])
    mark = f' <span class="mark">({", ".join(marks)})</span>' if marks else ""
    return html.escape(exchange.question) + mark


def said(exchange: Exchange, number: int, notice: str) -> str:
    """Write an answer as far as it has come, with its receipt when it is over."""
    if exchange.state == "failed":
        return alert(exchange.error)
    text = linked(exchange.answer)
    if exchange.state == "waiting":
        return f'<span class="receipt" lang="en">{WAITING}</span>'
    if exchange.state == "stopped" and not text:
        return '<span class="receipt" lang="en">Stopped before the first word.</span>'
    if exchange.receipt is None:
        return text or "..."
    words = receipt_words(exchange.receipt, notice)
    words = f"Stopped. {words}" if exchange.state == "stopped" else words
    line = f'<span class="receipt" lang="en">{html.escape(words)}</span>'
    if exchange.turn is not None:
        line += f"\n\n[What does this rest on?](#avchat-evidence-{number})"
    return f"{text}\n\n{line}"


def linked(text: str) -> str:
    """Escape an answer and make links of the times in it, which seek in the browser."""
    pieces, at = [], 0
    for t, start, end in times_in(text):
        pieces += [html.escape(text[at:start]), f"[{html.escape(text[start:end])}](#t={t:g})"]
        at = end
    return "".join(pieces) + html.escape(text[at:])


def receipt_words(receipt: Receipt, notice: str) -> str:
    """Put a receipt in words, with its tokens and how fast they came."""
    tokens, timing = receipt.tokens, receipt.timing
    took = timing.total_s - timing.media_s - timing.encode_s - timing.first_token_s
    rate = f", {(tokens.answer - 1) / took:.0f} tokens/s" if tokens.answer > 1 and took > 0 else ""
    read = tokens.visual + tokens.audio + tokens.text
    return f"{in_words(receipt, notice)} {read} tokens read, {tokens.answer} written{rate}."


def alert(message: str) -> str:
    """Show an error as one line that screen readers announce."""
    return f'<span class="error" role="alert" lang="en">error: {html.escape(message)}</span>'


def evidence_panel(exchange: Exchange, evidence: Evidence) -> str:
    """Draw what an answer loses without a sense: a bar each, and the words that need it most."""
    lost = evidence.lost
    names = {"without the sound": lost.sound, "without the picture": lost.picture}
    names["without both"] = lost.both
    most = max(1e-6, *names.values())
    rows = "".join(bar(name, value, most) for name, value in names.items())
    return (
        '<section class="evidence" lang="en" aria-label="Evidence">'
        f"<h2>{html.escape(exchange.answer)}</h2>"
        f"<p><strong>{VERDICTS[evidence.verdict]}.</strong> {html.escape(evidence.says())}.</p>"
        f"<table><caption>Log-likelihood that the answer loses, in nats</caption>{rows}</table>"
        f"{needy_words(evidence)}</section>"
    )


VERDICTS = {
    "sound": "Sound",
    "picture": "Picture",
    "both": "Sound and picture",
    "question": "The question alone",
}


def bar(name: str, value: float, most: float) -> str:
    """Draw one row: a meter, and its number."""
    share = min(max(value / most, 0.0), 1.0)
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td><meter min="0" max="1" value="{share:.3f}" aria-label="{name}">{value:.1f}</meter>'
        f"</td><td>{value:.1f}</td></tr>"
    )


def needy_words(evidence: Evidence) -> str:
    """Name for each sense the words that lose most without it."""
    lines = []
    for sense in ("sound", "picture"):
        losses = sorted(evidence.words, key=lambda word, s=sense: -vars(word.lost)[s])
        needy = [word.word for word in losses[:3] if vars(word.lost)[sense] > 0.1]
        if needy:
            lines.append(f"Most from the {sense}: {html.escape(', '.join(needy))}.")
    return f"<p>{' '.join(lines)}</p>" if lines else ""


def comparison_panel(question: str, found: Sequence[Compared], notice: str) -> str:
    """Lay answers under different senses side by side."""
    cells = "".join(
        f"<div><h3>{SENSE_WORDS[one.sense].capitalize()}</h3><p>{html.escape(one.answer)}</p>"
        f'<p class="receipt">{html.escape(in_words(one.receipt, notice))}</p></div>'
        for one in found
    )
    return (
        '<section class="comparison" lang="en" aria-label="Comparison">'
        f"<h2>{html.escape(question)}</h2>"
        f'<div class="columns">{cells}</div></section>'
    )


def as_markdown(clip: Clip) -> str:
    """Write a talk as a Markdown file."""
    return "\n".join([f"# {clip.name}", "", *markdown_lines(clip)])


def markdown_lines(clip: Clip) -> Iterator[str]:
    """Yield the lines of a talk."""
    for exchange in clip.exchanges:
        options = exchange.options
        part = f" ({moment(options.start)} to {moment(options.end)})" if options.end else ""
        yield f"**{exchange.question}**{part} ({SENSE_WORDS[exchange.sense]})"
        yield ""
        yield exchange.answer or f"error: {exchange.error}"
        if exchange.receipt is not None:
            yield ""
            yield f"> {in_words(exchange.receipt)}"
        if exchange.evidence is not None:
            yield f"> {exchange.evidence.says()}."
        yield ""


def as_data(exchange: Exchange) -> dict[str, Any]:
    """Return an exchange as plain data, for JSON: what the receipt holds, and what was asked."""
    receipt = exchange.receipt
    data = {} if receipt is None else receipt.to_dict()
    options = exchange.options
    data |= {
        "question": exchange.question,
        "answer": exchange.answer.strip(),
        "sense": exchange.sense,
        "state": exchange.state,
        "range": None if options.start is None else [options.start, options.end],
        "times": [{"t": pin.t, "text": pin.text, "agreed": pin.solid} for pin in exchange.pins],
    }
    data |= {"error": exchange.error} if exchange.error else {}
    data |= {"evidence": exchange.evidence.to_dict()} if exchange.evidence else {}
    return data


def as_json(clip: Clip) -> str:
    """Write a talk as JSON."""
    talk = [as_data(exchange) for exchange in clip.exchanges]
    return json.dumps({"clip": clip.name, "hash": clip.hash, "talk": talk}, indent=1)
