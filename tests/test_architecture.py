"""The rules of ARCHITECTURE.md, checked on the source text: who imports whom, how large it is."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Reading order: a module imports only what stands above it, or beside it on the same line.
LAYERS = [
    "config input_error published quiet writing",
    "weight_files tokenizer tokens whisper_weights",
    "fetching",
    "container isolation",
    "listing",
    "sound pictures",
    "media",
    "windows peaks",
    "encoding",
    "cuts preview contour",
    "parts",
    "transcripts",
    "encoders",
    "projectors",
    "language prompt saved card templates",
    "bases push bunny",
    "checkpoints",
    "weights sizes",
    "loading",
    "collate packing",
    "model",
    "merging",
    "importing",
    "static_decoding",
    "decoding",
    "batch evidence spoken",
    "chat",
    "batch_media",
    "batch_lines",
    "batch_run",
    "receipt",
    "patches matching",
    "vlsa",
    "heads",
    "excerpts",
    "library_table",
    "library",
    "library_find",
    "library_query",
    "thumbnails gathering",
    "indexing",
    "jobs",
    "cluster",
    "speech looking",
    "moments",
    "embedded",
    "export",
    "world",
    "tagging",
    "data",
    "pool",
    "captions",
    "data_rows",
    "data_turns data_speech caption_tables",
    "data_formats",
    "data_answers data_layout",
    "data_conversion data_split data_report data_likeness",
    "data_look",
    "data_check",
    "feature_shards",
    "features",
    "clip_source",
    "run_config",
    "run_state",
    "run_log",
    "batches trainable",
    "training",
    "stage",
    "metrics",
    "evaluation",
    "app_settings",
    "ui",
    "doctor doctor_model space",
    "script",
    "lookup_cli",
    "batch_cli chat_cli data_cli index_cli model_cli moments_cli",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}

# The files that read media; eval/speed.py measures how others do it.
MEDIA = [f"avchat/{name}.py" for name in ("container", "listing", "sound", "pictures", "media")]
WRITERS = [f"avchat/{name}.py" for name in ("encoding", "cuts", "preview")]
# Third-party packages that one part of avchat alone may touch.
OWNERS = {
    "gradio": ["avchat/ui/"],
    "accelerate": ["avchat/training.py", "avchat/run_state.py", "avchat/run_log.py"],
    "peft": ["avchat/language.py"],
    "bitsandbytes": ["avchat/language.py"],
    "datasets": ["avchat/data_speech.py", "avchat/evaluation/mteb_model.py"],
    "ray": ["avchat/jobs.py", "avchat/cluster.py"],
    "matplotlib": ["avchat/evaluation/plots.py"],
    "openai": ["avchat/evaluation/judge.py"],
    "lancedb": ["avchat/library.py", "avchat/library_table.py"],
    "decord": [*MEDIA, "eval/speed.py"],
    "av": [*MEDIA, *WRITERS, "eval/speed.py", "avchat/world/", "avchat/assets/"],
}
# What answers a question must not pull in what trains.
FORBIDDEN = [
    ({"model"}, {"vlsa"}),
    ({"vlsa"}, {"model"}),
    (
        {
            "chat",
            "excerpts",
            "library",
            "library_find",
            "heads",
            "indexing",
            "jobs",
            "cluster",
            "ui",
        },
        {"captions", "data", "pool", "feature_shards", "features", "training"},
    ),
]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


def sources(*folders: str) -> list[Path]:
    """List the project's Python files, `app.py` included, under the named folders."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [ROOT / "app.py", *files]


@cache
def tree(path: Path) -> ast.Module:
    """Parse one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names a file imports, wherever in the file, relative ones made absolute."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part(path: Path) -> str:
    """Name the part of avchat a file belongs to: `media` for media.py, `world` for its files."""
    return path.relative_to(ROOT / "avchat").parts[0].removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    """Name the parts of avchat a file imports. `from avchat import AVChat` counts as the model."""
    names = [name.split(".") for name in imports(path)]
    inner = {name[1] for name in names if name[0] == "avchat" and len(name) > 1}
    return {"model" if name == "AVChat" else name for name in inner} - {part(path)}


MODULES = [
    path
    for path in sources("avchat")[1:]
    if not path.name.startswith("__") and "assets" not in path.parts
]
FILES = [path for path in sources("avchat", "train", "eval", "tests") if path.exists()]


def label(path: Path) -> str:
    """Name a test case by the file it checks."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_imports_never_point_down_the_list(path: Path) -> None:
    assert part(path) in LEVEL, f"add {part(path)} to LAYERS here and to ARCHITECTURE.md"
    low = {name for name in parts_imported(path) if LEVEL.get(name, -1) > LEVEL[part(path)]}
    assert not low, f"{label(path)} imports {sorted(low)}, which stand below it"


def test_the_world_needs_no_model() -> None:
    for path in (ROOT / "avchat" / "world").rglob("*.py"):
        assert not parts_imported(path) - {"config"}, label(path)


@pytest.mark.parametrize(("who", "what"), FORBIDDEN, ids=["model", "vlsa", "answers"])
def test_parts_that_must_not_meet(who: set[str], what: set[str]) -> None:
    for path in MODULES:
        if part(path) in who:
            assert not parts_imported(path) & what, label(path)


@pytest.mark.parametrize("package", OWNERS)
def test_a_package_is_imported_where_it_belongs(package: str) -> None:
    for path in FILES:
        if label(path).startswith("tests/"):
            continue
        used = {name.split(".")[0] for name in imports(path)}
        assert package not in used or label(path).startswith(tuple(OWNERS[package])), label(path)


def test_no_script_shadows_a_dependency() -> None:
    """`python train/x.py` puts train/ first on sys.path, before the installed packages."""
    imported = {name.split(".")[0] for path in FILES for name in imports(path)} - {"conftest"}
    scripts = {path.stem for folder in ("train", "eval") for path in (ROOT / folder).rglob("*.py")}
    # a script may import its neighbour; what is installed must not be hidden by one
    neighbours = tuple(str(ROOT / folder) for folder in ("train", "eval"))
    found = {name: find_spec(name) for name in imported}
    installed = {
        name
        for name, spec in found.items()
        if spec is not None and not str(spec.origin).startswith(neighbours)
    }
    assert not scripts & (installed | {"datasets", "evaluate", "accelerate", "deepspeed"})


@pytest.mark.parametrize("path", FILES, ids=label)
def test_files_and_functions_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_house_style(path: Path) -> None:
    assert path.read_text(encoding="utf-8").isascii(), "ASCII only"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "hasattr", f"line {node.lineno}: hasattr hides a type"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            wide = caught in ("everything", "Exception", "BaseException")
            assert not wide, f"line {node.lineno}: catch what can happen, not {caught}"


@pytest.mark.parametrize("path", [p for p in FILES if "tests" not in p.parts], ids=label)
def test_public_names_are_documented_and_typed(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a module says what enters and what leaves"
    for node in public_definitions(tree(path)):
        assert ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if not a.annotation and a.arg not in ("self", "cls")]
            assert node.returns is not None and not bare, f"{node.name} lacks types: {bare}"


def public_definitions(module: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Yield a module's public classes and functions, and the public methods of those classes."""
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = (method for method in inner if isinstance(method, ast.FunctionDef))
            yield from (method for method in methods if not method.name.startswith("_"))
