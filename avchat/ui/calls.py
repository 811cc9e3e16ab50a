"""One question about one file, written as programs ask it: Python, command line, curl, MCP.

What is written here works as it stands, run where the file lies; the tests run it.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from avchat.app_settings import Settings
from avchat.ui.clips import Options

NAMES = {"max_new_tokens": "max_tokens"}  # of options, where endpoints call them otherwise
FLAGS = ("start", "end", "frames", "temperature", "top_p", "seed", "max_new_tokens")


@dataclass(frozen=True)
class Call:
    """What is asked, of which server."""

    server: str  # its address, without a slash at the end
    file: str
    question: str
    sense: str = "both"
    options: Options = Options()
    model: str = Settings.model
    locked: bool = False  # visitors must give a name and a password

    @property
    def unusual(self) -> dict[str, Any]:
        """Return the options that are not as usual, by the names of `Options`."""
        usual = vars(Options())
        return {name: x for name, x in vars(self.options).items() if x != usual[name]}


def python(call: Call) -> str:
    """Write a call with gradio_client; the answer is printed as it grows."""
    who = ', auth=("NAME", "PASSWORD")' if call.locked else ""
    given = {NAMES.get(name, name): x for name, x in call.unusual.items()}
    asked = f"{call.question!r}, {call.sense!r}"
    asked += f', {given!r}, api_name="/ask_with"' if given else ', api_name="/ask"'
    return (
        "from gradio_client import Client, handle_file\n\n"
        f'client = Client("{call.server}"{who})\n'
        f'client.predict(handle_file({call.file!r}), api_name="/open")\n'
        f"for step in client.submit({asked}):\n"
        '    print(step["answer"])\n'
        'print(step["receipt"])\n'
        'print(client.predict(-1, api_name="/evidence")["says"])\n'
    )


def shell(call: Call) -> str:
    """Write commands of avchat, which need no server: ask, find the moments, find the file."""
    unusual = call.unusual
    words = ["avchat", "chat", call.file, call.question]
    words += ["--model", call.model] if call.model != Settings.model else []
    words += ["--sense", call.sense] if call.sense != "both" else []
    for name in FLAGS:
        if name in unusual:
            words += [f"--{name.replace('_', '-')}", str(unusual[name])]
    words += ["--transcript"] if call.options.transcript else []
    lines = ["# the command line has no system text"] if call.options.system else []
    lines.append(shlex.join([*words, "--evidence"]))
    lines.append(shlex.join(["avchat", "moments", call.file, call.question]))
    lines.append(shlex.join(["avchat", "index", call.file, "--library", "library"]))
    lines.append(shlex.join(["avchat", "find", call.question, "--library", "library"]))
    return "\n".join(lines) + "\n"


def curl(call: Call) -> str:
    """Write HTTP calls: upload, ask, read the answer."""
    cookies = " -b cookies.txt" if call.locked else ""
    login = "curl -s -c cookies.txt -F username=NAME -F password=PASSWORD $SERVER/login\n"
    options = call.options
    data = [None, call.question, call.sense, options.start, options.end]
    # The name of the upload comes from the shell, in the place of what stands first.
    body = shlex.quote(json.dumps({"data": data})).replace("[null", '["\'"$FILE"\'"', 1)
    file = shlex.quote(f'files=@"{call.file}"')
    left = sorted(call.unusual.keys() - {"start", "end"})
    note = f"# left out here: {', '.join(left)} (see Python)\n" if left else ""
    return (
        f"{note}SERVER={shlex.quote(call.server)}\n{login if call.locked else ''}"
        f"FILE=$(curl -s{cookies} -F {file} $SERVER/gradio_api/upload | cut -d'\"' -f2)\n"
        f"EVENT=$(curl -s{cookies} $SERVER/gradio_api/call/ask_video \\\n"
        f"  -H 'Content-Type: application/json' -d {body} | cut -d'\"' -f4)\n"
        f"curl -sN{cookies} $SERVER/gradio_api/call/ask_video/$EVENT\n"
    )


def mcp(call: Call) -> str:
    """Write what an assistant's settings need: the tools, and the helper that uploads files."""
    helper = ["--from", "gradio[mcp]", "gradio", "upload-mcp", call.server, "FOLDER-OF-YOUR-CLIPS"]
    servers = {
        "avchat": {"url": f"{call.server}/gradio_api/mcp/"},
        "avchat-files": {"command": "uvx", "args": helper},
    }
    return json.dumps({"mcpServers": servers}, indent=2) + "\n"
