"""How each family of questions is asked: at least ten phrasings in `assets/phrasings.json`.

The last `HELD_OUT` of each are never trained on. Slots in braces are filled by `questions`.
Held-out phrasings put words together that training has seen in this or in other phrasings: what
they test is another way to ask, not another vocabulary (the bundled model knows no words but
these).
"""

import json
from pathlib import Path

HELD_OUT = 3
_FILE = Path(__file__).parents[1] / "assets" / "phrasings.json"

PHRASINGS: dict[str, tuple[str, ...]] = {
    family: tuple(words) for family, words in json.loads(_FILE.read_text(encoding="utf-8")).items()
}
