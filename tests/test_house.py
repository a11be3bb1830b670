"""The house rules that a machine can hold: floors, sizes, names, docstrings, numbers of decisions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agentgw"
ADAPTER_ROOMS = {"identity", "sts", "authz", "policy", "audit", "upstream", "registry"}
FLOORS: list[set[str]] = [
    {"errors", "launch"},
    {"core"},
    {"mcp"},
    ADAPTER_ROOMS,
    {"gateway"},
    {"http"},
    {"config"},
    {"app"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
KNOWS_ADAPTERS = {"app", "cli", "demo"}
WITH_CONTRACT = {"identity", "policy", "upstream"}
"""The rooms whose `__init__` is a contract: what it exports may be named by any room above."""
KNOWN_BEYOND = {
    ("config", "agentgw.policy.cel"): "a condition that does not compile is an error with its line",
    ("gateway", "agentgw.upstream.catalogue"): "works over any Link, so it is no adapter",
}
IO_MODULES = {
    "aiohttp", "anyio", "asyncio", "concurrent", "fcntl", "glob", "http", "httptools", "httpx2",
    "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "selectors", "shutil", "signal",
    "socket", "socketserver", "sqlalchemy", "sqlite3", "ssl", "starlette", "subprocess", "tempfile",
    "threading", "urllib.request", "uvicorn", "uvloop",
}  # fmt: skip
IMPURE_MODULES = {"random", "secrets", "time", "uuid"}
IMPURE_CALLS = {"now", "utcnow", "today", "open", "input", "print"}
MODULE_LINES = 400
FUNCTION_LINES = 60
FORBIDDEN_WORDS = {
    "base", "common", "helper", "helpers", "manager", "managers", "misc", "service", "services",
    "util", "utils",
}  # fmt: skip

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def sources(*folders: str) -> list[Path]:
    """Python files below these folders, but for what was installed there (`.venv`, node_modules)."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not installed(path.relative_to(ROOT)))


def installed(path: Path) -> bool:
    return any(part.startswith(".") or part == "node_modules" for part in path.parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, wherever in it, under TYPE_CHECKING too, with its line."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = module_of(path).split(".")
                keep = len(package) - node.level + (path.name == "__init__.py")
                origin = ".".join([*package[:keep], *filter(None, [origin])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (
                    node.lineno,
                    inner if origin.startswith("agentgw") and is_module(inner) else origin,
                )


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def own_imports() -> Iterator[tuple[Path, int, str, str, str]]:
    """(file, line, its room, the imported module, that module's room) for imports of our own."""
    for path in sources("agentgw"):
        for line, module in imports_of(path):
            if module.partition(".")[0] == "agentgw":
                yield path, line, room_of(module_of(path)), module, room_of(module)


def told(offenders: list[str]) -> str:
    return "\n" + "\n".join(offenders)


def at(path: Path, line: int, message: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {message}"


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module_of(path)) for path in sources("agentgw")} - {""}
    assert rooms - set(HEIGHT) == {"verify"} & rooms


def test_a_room_imports_only_from_rooms_below_it() -> None:
    offenders = [
        at(path, line, f"{room} imports {module}")
        for path, line, room, module, other in own_imports()
        if room in HEIGHT and other in HEIGHT and room != other and HEIGHT[other] >= HEIGHT[room]
    ]
    assert not offenders, told(offenders)


def test_the_registry_is_known_to_the_composition_root_only() -> None:
    offenders = [
        at(path, line, f"{room} imports {module}")
        for path, line, room, module, other in own_imports()
        if other == "registry" and room not in KNOWS_ADAPTERS | {"registry"}
    ]
    assert not offenders, told(offenders)


def test_only_the_composition_root_the_cli_and_the_demo_know_adapters() -> None:
    offenders = []
    for path in sources("agentgw"):
        room = room_of(module_of(path))
        for line, module, name in names_imported(path):
            other = room_of(module)
            if other not in WITH_CONTRACT - {room} or room in KNOWS_ADAPTERS:
                continue
            if name not in exports_of(other) and (room, module) not in KNOWN_BEYOND:
                offenders.append(
                    at(path, line, f"{room} imports {module}.{name}, no part of the contract")
                )
    assert not offenders, told(offenders)


def names_imported(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every `from agentgw… import name`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentgw"):
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name


@cache
def exports_of(room: str) -> frozenset[str]:
    """The names in `__all__` of a room's contract."""
    for node in tree_of(PACKAGE / room / "__init__.py").body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return frozenset(ast.literal_eval(value))
    return frozenset()


def test_verify_stands_alone() -> None:
    offenders = [
        at(path, line, f"{room} imports {module}")
        for path, line, room, module, other in own_imports()
        if room == "verify" and other != "verify"
    ]
    assert not offenders, told(offenders)


def test_core_is_pure() -> None:
    offenders = []
    for path in sources("agentgw/core"):
        for line, module in imports_of(path):
            top = module.partition(".")[0]
            ours = module.startswith(("agentgw.core", "agentgw.errors"))
            if not ours and (top not in sys.stdlib_module_names or is_io(module, IMPURE_MODULES)):
                offenders.append(at(path, line, f"core imports {module}"))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await):
                offenders.append(at(path, node.lineno, "core awaits"))
            if isinstance(node, ast.Call) and called(node) in IMPURE_CALLS:
                offenders.append(at(path, node.lineno, f"core calls {called(node)}()"))
    assert not offenders, told(offenders)


def test_the_wire_does_no_io() -> None:
    offenders = [
        at(path, line, f"mcp imports {module}")
        for path in sources("agentgw/mcp")
        for line, module in imports_of(path)
        if is_io(module)
    ]
    assert not offenders, told(offenders)


def is_io(module: str, more: set[str] | None = None) -> bool:
    banned = IO_MODULES | (more or set())
    return module in banned or module.partition(".")[0] in banned


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def test_modules_stay_small() -> None:
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in sources("agentgw")}
    offenders = [at(path, size, "lines") for path, size in sizes.items() if size > MODULE_LINES]
    assert not offenders, told(offenders)


def test_functions_stay_short() -> None:
    offenders = [
        at(path, node.lineno, f"{node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines")
        for path in sources("agentgw")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not offenders, told(offenders)


def test_no_file_and_no_class_has_an_empty_name() -> None:
    offenders = []
    for path in sources("agentgw", "tests", "tools", "examples"):
        words = {
            word
            for part in path.relative_to(ROOT).with_suffix("").parts
            for word in part.split("_")
        }
        if words & FORBIDDEN_WORDS:
            offenders.append(at(path, 1, "the name says nothing"))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                parts = re.findall(r"[A-Z]?[a-z]+", node.name)
                if {part.lower() for part in parts} & FORBIDDEN_WORDS:
                    offenders.append(at(path, node.lineno, f"class {node.name} says nothing"))
    assert not offenders, told(offenders)


def test_everything_public_has_a_docstring() -> None:
    offenders = []
    for path in sources("agentgw"):
        if ast.get_docstring(tree_of(path)) is None:
            offenders.append(at(path, 1, "the module has no docstring"))
        offenders += [
            at(path, node.lineno, f"{node.name} has no docstring")
            for node in public_definitions(tree_of(path))
            if ast.get_docstring(node) is None
        ]
    assert not offenders, told(offenders)


def public_definitions(module: ast.Module) -> Iterator[Definition]:
    """The public functions and classes of a module."""
    for node in module.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in sources("tests")}
    offenders = sorted(
        str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()
    )
    assert not offenders, told(offenders)


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    folder = ROOT / "docs" / "adr"
    files = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    names = [path.name for path in files]
    assert all(re.match(r"\d{4}-[a-z0-9-]+\.md$", name) for name in names), names
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    titles = [re.match(r"# (\d+)\. (.+)\n", path.read_text("utf-8")) for path in files]
    lines = [f"{t[1]}. [{t[2]}]({n})" for t, n in zip(titles, names, strict=True) if t]
    listed = (folder / "README.md").read_text("utf-8").splitlines()
    assert [line for line in listed if line[:1].isdigit()] == lines


def test_decisions_that_are_named_exist() -> None:
    count = len(list((ROOT / "docs" / "adr").glob("0*.md")))
    documents = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    offenders = [
        at(path, 1, f"ADR {number}")
        for path in [*sources("agentgw", "tools"), *documents]
        for number in re.findall(r"\bADR (\d+)", path.read_text("utf-8"))
        if not 1 <= int(number) <= count
    ]
    assert not offenders, told(offenders)


def test_nothing_names_a_path_of_one_machine() -> None:
    files = project_files()
    home = re.compile(r"(?<![\w.$}])/(?:root|work|home/[a-z]+|Users/[A-Za-z]+)/")
    offenders = []
    for path in files:
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        offenders += [
            at(path, n, line.strip()[:80]) for n, line in enumerate(lines, 1) if home.search(line)
        ]
    assert not offenders, told(offenders)


def project_files() -> list[Path]:
    """What git tracks or would track; the test is skipped outside a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]
