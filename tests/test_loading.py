"""What is said and refused before a model is loaded: sizes, memory, a network that is not there."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import public
import pytest
import torch
import whisper
from small import TIMELINE_CONFIG, build_model, write_phi

from avchat import cli
from avchat.config import TIMELINE, AudioConfig, Config, LanguageConfig, ModelError
from avchat.encoders import build_audio
from avchat.fetching import Answer, ask_hub, base_source, whisper_source
from avchat.loading import Plan, bases_of, choices, plan_of
from avchat.model import AVChat
from avchat.published import MERGED
from avchat.sizes import Unknown, count, memory


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_phi(tmp_path_factory.mktemp("base") / "phi", num_hidden_layers=4)


@pytest.fixture(scope="module")
def saved(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours, whose language model is a folder in the published form."""
    folder = tmp_path_factory.mktemp("ours")
    torch.manual_seed(1)
    AVChat.from_config(config).save_pretrained(folder)
    return folder


def test_too_little_memory_is_refused_before_anything_is_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avchat.loading.free_memory", lambda device: 500_000)
    with pytest.raises(
        ModelError, match=r"needs 1.\d MB more memory on cpu in fp32, 0.5 MB are free"
    ):
        AVChat.from_pretrained(saved)
    monkeypatch.setenv("AVCHAT_IGNORE_MEMORY", "1")
    assert AVChat.from_pretrained(saved)


@pytest.mark.parametrize(
    ("free", "remedy"),
    [
        (10e9, "--dtype bf16 needs"),
        (6e9, "--dtype bf16 --bits 8 needs"),
        (1e9, "--offload DIR keeps"),
    ],
)
def test_the_remedy_is_one_that_fits(
    free: float, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """phi-2 with SigLIP and Whisper small, of which nothing is here but the configs."""
    TIMELINE.save(tmp_path)
    monkeypatch.setattr("avchat.loading.free_memory", lambda device: int(free))
    # a Hub that is slow, not one that is not there: then memory is what matters first
    monkeypatch.setattr("avchat.fetching.ask_hub", lambda *_: Answer(None, "slow"))
    with pytest.raises(
        ModelError, match=rf"needs 13.\d\d GB more .*{remedy}.*AVCHAT_IGNORE_MEMORY=1"
    ):
        AVChat.from_pretrained(tmp_path, device="cpu")


def test_a_base_that_is_not_here_is_told_before_minutes_of_retries(tmp_path: Path) -> None:
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(hub="some/one"))
    build_model().save_pretrained(tmp_path)
    config.save(tmp_path)
    with pytest.raises(ModelError, match=r"some/one is not on this machine, and HF_HUB_OFFLINE is"):
        AVChat.from_pretrained(tmp_path)


def test_a_base_with_a_shard_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    config = write_phi(tmp_path / "phi")
    AVChat.from_config(config).save_pretrained(tmp_path / "ours")
    weights = tmp_path / "phi/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ModelError, match=r"phi/model.safetensors: .*download or copy it again"):
        AVChat.from_pretrained(tmp_path / "ours")
    shards = {"model-1.safetensors": 0, "model-2.safetensors": 1}
    weights.unlink()
    index = {"weight_map": dict(zip(("a", "b"), shards, strict=True))}
    (tmp_path / "phi/model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "phi/model-1.safetensors").write_bytes(whole)
    with pytest.raises(ModelError, match=r"phi/model-2.safetensors: missing, though model.safet"):
        AVChat.from_pretrained(tmp_path / "ours")


def test_our_own_folder_half_here_is_told(saved: Path, tmp_path: Path) -> None:
    AVChat.from_pretrained(saved).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.incomplete")
    with pytest.raises(ModelError, match="a download into this folder was stopped"):
        AVChat.from_pretrained(tmp_path)


def test_a_whisper_that_is_damaged_or_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    config = replace(TIMELINE_CONFIG, audio=AudioConfig(hub=str(path)))
    config.save(tmp_path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=f"{path}: not a Whisper in openai-whisper's form"):
        AVChat.from_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match=f"{path}: the weights cannot be read .cut off.; download"):
        AVChat.from_pretrained(tmp_path)


def test_a_whisper_that_cannot_be_fetched_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # where nothing listens: as without a network, and no test reaches for one
    monkeypatch.setitem(whisper._MODELS, "tiny", "http://127.0.0.1:9/ab/tiny.pt")
    with pytest.raises(ModelError, match=r"audio tiny: cannot be fetched .*refused.*~/.cache/whis"):
        build_audio(AudioConfig(hub="tiny"))


@pytest.mark.parametrize(
    ("part", "kind", "reason"),
    [
        ("vision", "bert", "no SigLIP"),
        ("audio", "bert", "a bert is no Whisper"),
        ("language", "t5", "a t5 is no causal language model"),
        ("language", "made-up", "how it is built cannot be read"),
    ],
)
def test_a_base_of_another_kind_has_no_size(
    part: str, kind: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    base = replace(getattr(TIMELINE, part), hub=str(tmp_path))
    config = replace(TIMELINE, **{part: base})
    with pytest.raises(Unknown, match=reason):
        count(config)


def test_whisper_is_looked_for_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = whisper_source("small")
    assert (source.here, source.missing) == (False, 483_617_219)
    assert source.get == f"copy small.pt into {tmp_path / 'whisper'}"
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper/small.pt").write_bytes(b"12345")
    assert whisper_source("small").here and whisper_source("small").size == 5
    assert whisper_source("unheard").size == 0 and not whisper_source("unheard").here


def test_a_base_that_is_here_is_not_asked_for(
    config: Config, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = base_source("language", config.language.hub)
    assert source.here and source.missing == 0
    path = Path(config.language.hub) / "model.safetensors"
    assert source.size == path.stat().st_size
    AVChat.from_pretrained(saved)
    assert "fetching" not in capsys.readouterr().err


def test_words_of_the_command_line_become_choices(tmp_path: Path) -> None:
    made = choices("cpu", "bf16", 8, None)
    assert made == {"device": torch.device("cpu"), "dtype": torch.bfloat16, "bits": 8}
    assert choices("auto", "auto", None, tmp_path / "a/b")["spread"].offload.is_dir()
    with pytest.raises(ModelError, match="no device called cuda:99 here: there is .*cpu"):
        choices("cuda:99", "auto", None, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="no folder can be made there"):
        choices("cpu", "auto", None, tmp_path / "file/x")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--bits", "4"], "4 and 8 bit need a language model from the Hub or a folder"),
        (["--dtype", "fp16"], "fp16 is not offered: phi-2 overflows in it; take bf16 or fp32"),
        (["--device", "cuda:99"], "no device called cuda:99 here"),
        (["--bits", "5"], "--bits"),
    ],
)
def test_a_choice_that_cannot_be_had_is_one_line(
    flags: list[str], reason: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["chat", str(clip), "what?", *flags]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert not said.out and len(lines) == 1 and reason in lines[0]


def test_doctor_tells_of_a_model(capsys: pytest.CaptureFixture[str], saved: Path) -> None:
    assert cli.main(["doctor", "--model", "timeline", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sources = {source["part"]: source for source in found["sources"]}
    assert sources["language"]["bytes"] == 5_559_417_400
    assert found["download_bytes"] == 5_559_417_400 + 3_511_950_624 + 483_617_219
    assert found["memory"]["4 bit"]["total"] < found["memory"]["8 bit"]["total"] < 7e9
    assert set(found["verdict"]["cpu"]) == {"fp32", "bf16", "8 bit", "4 bit"}
    assert any("copy its cache here (HF_HOME)" in line for line in found["advice"])
    assert cli.main(["doctor", "--model", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "fetch    0.0 MB in all" in shown and "needed with a full context" in shown
    for name, reason in (
        ("nope", "no model called nope"),
        ("no/such", "HF_HUB_OFFLINE is set"),
        ("microsoft/phi-2", "a base that models stand on"),
    ):
        assert cli.main(["doctor", "--model", name]) == 2
        said = capsys.readouterr()
        assert not said.out and reason in said.err and said.err.count("\n") == 1


def test_doctor_knows_bunnys_form_and_refuses_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public.write_merged(tmp_path, public.merged())
    assert cli.main(["doctor", "--model", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # it was never taught to hear, so that Whisper is not fetched
    assert [source["part"] for source in found["sources"]] == ["model"]
    assert found["context"] == 2048 and found["memory"]["bf16"]["vision"] > 0
    base, tower, _ = public.write_bases(tmp_path / "stock")
    public.write_adapters(tmp_path / "lora", base, tower)
    parts = [source.part for source in plan_of(str(tmp_path / "lora")).sources]
    assert parts == ["model", "vision", "language"]  # adapters need the bases
    (tmp_path / "empty").mkdir()
    TIMELINE_CONFIG.save(tmp_path / "empty")
    assert cli.main(["doctor", "--model", str(tmp_path / "empty")]) == 2
    assert "no weights here" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert cli.main(["doctor", "--model", str(tmp_path)]) == 2
    assert "a model of the type bert" in capsys.readouterr().err


def row_of(shown: str, plan: Plan) -> str:
    """Write a model's line of the README's table: what is fetched, memory with a full context."""
    counts, size = plan.count(), sum(source.size for source in plan.sources)
    sizes = [memory(counts, p).total / 1e9 for p in ("bf16", "8 bit", "4 bit")]
    cells = [f"{size / 1e9:.1f} GB", *(f"{gigabytes:.1f}" for gigabytes in sizes)]
    if not plan.sources:  # without a base there is nothing to fetch, and nothing to quantise
        cells = ["in the package", cells[1], "", ""]
    return f"| {shown} | {' | '.join(cells)} |".replace("  ", " ")


def with_language(name: str) -> Plan:
    """Plan the preset timeline with another language model."""
    config = replace(TIMELINE, language=LanguageConfig(hub=name))
    return Plan(name, config, bases_of(config))


def test_the_table_of_the_readme_is_what_the_code_computes() -> None:
    """A change of a preset, of the table in published.py or of an allowance changes it too."""
    small = ("HuggingFaceTB/SmolLM2-360M-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")
    rows = [row_of("`tiny`", plan_of("tiny")), row_of("`timeline` with phi-2", plan_of("timeline"))]
    rows += [row_of(f"`{name}`", plan_of(name)) for name in MERGED]
    rows += [row_of(f"`timeline` with {n.split('/')[1]}", with_language(n)) for n in small]
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    missing = [row for row in rows if row not in readme]
    assert not missing, "the README lacks\n" + "\n".join(missing)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download needs."""

    files: dict[str, bytes] = {}
    commit = "0123456789012345678901234567890123456789"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/models/me/mine/tree/"):
            rows = [{"type": "file", "path": n, "size": len(b)} for n, b in self.files.items()]
            rows = [{**row, "oid": str(row["size"])} for row in rows]
            self.reply(200, json.dumps(rows).encode())
        elif path.startswith("/api/models/me/mine"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in self.files.items()]
            said = {"id": "me/mine", "sha": self.commit, "siblings": siblings}
            self.reply(200, json.dumps(said).encode())
        elif path.startswith("/api/models/me/broken"):
            self.reply(500, b"{}")
        elif path.startswith("/me/mine/resolve/"):
            body = self.files.get(path.split("/", 5)[5])
            self.reply(200 if body is not None else 404, body or b"")
        else:
            self.reply(404, b"{}")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{len(body)}-{sum(body[:1000])}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(saved: Path) -> Iterator[str]:
    paths = [path for path in saved.rglob("*") if path.is_file()]
    Hub.files = {str(path.relative_to(saved)): path.read_bytes() for path in paths}
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.slow
def test_the_hub_tells_sizes_and_a_download_is_announced(hub: str, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads where the Hub is when it is imported."""
    code = (
        "import json, sys; from avchat import AVChat, cli\n"
        "assert cli.main(['doctor', '--model', 'me/mine', '--json']) == 0\n"
        "AVChat.from_pretrained('me/mine'); print('second', file=sys.stderr)\n"
        "AVChat.from_pretrained('me/mine')\n"
        "assert cli.main(['doctor', '--model', 'me/none']) == 2\n"
    )
    kept = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    there = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **there},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    total = sum(len(body) for body in Hub.files.values())
    config = len(Hub.files["config.json"])  # fetched to know what it is: no weight is
    assert found["download_bytes"] in (total, total - config)
    assert [source["known"] for source in found["sources"]] == ["the Hub", "here"]
    first, second = done.stderr.split("second")
    assert first.count(f"fetching me/mine ({(total - config) / 1e6:.1f} MB)") == 1
    assert "fetching" not in second
    assert "no model called me/none: not found on the Hub" in second


def test_a_hub_that_fails_is_asked_once_and_not_trusted(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
    broken = ask_hub("me/broken")
    assert (broken.files, broken.silence) == (None, "the Hub answers with error 500")
    assert not broken.down  # it may work a moment later: the loader tries
    assert ask_hub("me/mine").files == {name: len(body) for name, body in Hub.files.items()}
    with pytest.raises(ModelError, match="no model called me/none: not found on the Hub"):
        ask_hub("me/none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert ask_hub("me/mine").down
