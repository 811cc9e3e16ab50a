"""What Gradio would do for anybody who asks, or keep of anybody who was here; this app does not.

A client may name an address of the web wherever a file is expected, and the server fetches it: as
the input of an event, or streamed through under `/gradio_api/file=`. That is a way to use this
machine against others, and to fill its disk. `from_url.py` alone fetches, within the app's limits.
"""

from typing import Any, NoReturn

import gradio as gr
import safehttpx

ABROAD = "this app opens no addresses of the web: upload the file instead"


class ShutError(gr.Error, ValueError):
    """Nothing is fetched for a client by Gradio: shown to a caller, a bad request to a stream."""


async def refuse(*asked: Any, **more: Any) -> NoReturn:
    """Take the place of what fetches an address, and of the check that streaming begins with."""
    raise ShutError(ABROAD, print_exception=False)


def shut_doors() -> None:
    """Let Gradio fetch nothing from the web, in this process."""
    safehttpx.async_validate_url = safehttpx.get = refuse


def forget_session(page: gr.Blocks, session: str | None) -> None:
    """Let Gradio forget who has closed the page.

    It would keep 10 000 sessions, with a copy of what it knows of the page for each, 0.4 MB.
    """
    page.state_holder.session_data.pop(session, None)
    page.state_holder.time_last_used.pop(session, None)
