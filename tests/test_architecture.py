"""What sources may import, how large they may grow, what a release must carry: read from the files themselves."""

from __future__ import annotations

import ast
import doctest
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

import precision

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("precision", "qsim", "experiments")
SOURCES = tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))
LARGEST = 400  # lines
VERSION = re.compile(r"\d+\.\d+\.\d+")

# Reading the sources


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), place(path))


def package_of(path: Path) -> list[str]:
    return list(path.relative_to(ROOT).parent.parts)


def statement_imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Full names of the modules and of the things imported from them, relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def dynamic_imports(tree: ast.AST) -> Iterator[str]:
    """What ``import_module`` or ``__import__`` is given: the literal text up to the first computed part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and called(node) in ("import_module", "__import__"):
            yield literal_start(node.args[0])


def called(node: ast.Call) -> str:
    """Last part of the name that is called."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def literal_start(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@cache
def statements(path: Path) -> set[str]:
    """Everything that the file's import statements name."""
    return set(statement_imports(parsed(path), package_of(path)))


@cache
def imports(path: Path) -> set[str]:
    """The same and what it imports by function."""
    return {*statements(path), *dynamic_imports(parsed(path))}


def within(name: str, *packages: str) -> bool:
    """Whether a module is one of these packages or stands in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offenders(paths: Iterable[Path], found: Callable[[Path], Iterable[str]], *packages: str) -> list[str]:
    """``file: module`` for each import of the packages."""
    return [f"{place(path)}: {name}" for path in paths for name in sorted(found(path)) if within(name, *packages)]


def outside(folder: str, paths: Iterable[Path] = SOURCES) -> list[Path]:
    return [path for path in paths if not place(path).startswith(f"{folder}/")]


def of(package: str) -> list[Path]:
    return [path for path in SOURCES if package_of(path)[0] == package]


def reads_of_the_environment(tree: ast.AST) -> list[str]:
    """``os.environ``, ``os.getenv`` and their relatives, however they were imported."""
    names = {"environ", "environb", "getenv", "getenvb"}
    attributes = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    imported = [a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names]
    return [name for name in attributes + imported if name in names]


def mentions_of_fastmath(tree: ast.AST) -> list[str]:
    """As a keyword, or as a key of options handed over later."""
    keywords = [node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "fastmath"]
    keys = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "fastmath"]
    return [*keywords, *keys]


# The readers see what they should


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import jax.numpy as jnp", {"jax.numpy"}),
        ("def f():\n    from numba import njit", {"numba", "numba.njit"}),
        ("from . import bits", {"precision.backends", "precision.backends.bits"}),
        ("from ..bits import less", {"precision.bits", "precision.bits.less"}),
        ("import importlib\nimportlib.import_module('experiments.figure')", {"importlib", "experiments.figure"}),
        ("import_module(f'experiments.{name}')", {"experiments."}),
        ("__import__('jax')", {"jax"}),
    ],
)
def test_imports_are_found(source: str, expected: set[str]) -> None:
    tree = ast.parse(source)
    assert {*statement_imports(tree, ["precision", "backends"]), *dynamic_imports(tree)} == expected


@pytest.mark.parametrize(
    ("reader", "source"),
    [
        (reads_of_the_environment, "import os\nx = os.environ['HOME']"),
        (reads_of_the_environment, "import os as o\nx = o.getenv('HOME')"),
        (reads_of_the_environment, "from os import environ as e"),
        (mentions_of_fastmath, "numba.njit(f, fastmath=True)"),
        (mentions_of_fastmath, "options = {'fastmath': True}"),
    ],
)
def test_offences_are_found(reader: Callable, source: str) -> None:
    assert reader(ast.parse(source))
    assert not reader(ast.parse("import os\nx = os.cpu_count()"))


def test_there_are_sources_to_read() -> None:
    assert {path.parts[len(ROOT.parts)] for path in SOURCES} == set(PACKAGES)
    assert {"precision/bits.py", "precision/backends/jax_/gemm.py", "qsim/cli.py"} <= set(map(place, SOURCES))


# The direction of imports


def test_precision_knows_nothing_of_models() -> None:
    assert offenders(of("precision"), imports, "qsim", "experiments") == []


def test_only_the_command_line_reaches_experiments_and_only_when_asked() -> None:
    assert offenders(of("qsim"), statements, "experiments") == []
    commands = [ROOT / "qsim" / "commands" / name for name in ("experiment.py", "runs.py")]
    assert offenders([path for path in of("qsim") if path not in commands], imports, "experiments") == []


def test_numba_is_named_in_its_back_end_only() -> None:
    assert offenders(outside("precision/backends/numba_"), imports, "numba", "llvmlite") == []


def test_jax_is_named_in_its_back_end_only() -> None:
    """But for the plain step, which a benchmark measures ours against."""
    yardstick = ROOT / "qsim" / "bench" / "plain_step.py"
    paths = [path for path in outside("precision/backends/jax_") if path != yardstick]
    assert offenders(paths, imports, "jax", "jaxlib") == []


@pytest.mark.parametrize("name", ["numba_", "jax_"])
def test_back_ends_are_imported_on_first_use(name: str) -> None:
    """By statement only the reference is, which costs nothing."""
    assert offenders(outside(f"precision/backends/{name}"), statements, f"precision.backends.{name}") == []


FOUNDATIONS: dict[str, tuple[set[str], set[str]]] = {  # what each imports when it is loaded, and inside functions
    "bits": (set(), set()),
    "double": (set(), set()),
    "soft_float": ({"precision.bits"}, set()),
    "soft_division": ({"precision.bits", "precision.soft_float"}, set()),
    "operations": ({"precision.bits", "precision.soft_float", "precision.soft_division"}, set()),
    "ordering": ({"precision.bits", "precision.soft_float"}, set()),
    "block_scaling": ({"precision.bits"}, set()),
    "format": (
        {"__future__", "dataclasses", "functools", "typing", "numpy"},
        {"precision.formats", "precision.rounding_modes"},  # the record's dtype and constants, on first use
    ),
    "formats": ({"__future__", "re", "typing", "ml_dtypes", "numpy", "precision.format"}, set()),
    "rounding_modes": (
        {"__future__", "dataclasses", "functools", "typing", "numpy", "precision.bits", "precision.format"},
        set(),
    ),
    "nearest": (
        {
            "__future__",
            "collections.abc",
            "functools",
            "typing",
            "numpy",
            "precision.format",
            "precision.rounding_modes",
        },
        set(),
    ),
}


def imported_modules(nodes: Iterable[ast.AST]) -> set[str]:
    """Modules by their full names: ``from precision import bits`` names ``precision.bits``."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = node.module == "precision"
            found |= {f"precision.{alias.name}" for alias in node.names} if package else {node.module or "."}
    return found


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_foundations_stand_alone(name: str) -> None:
    tree = parsed(ROOT / "precision" / f"{name}.py")
    when_loaded, when_asked = FOUNDATIONS[name]
    inside = chain.from_iterable(ast.walk(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    lazy = [node for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]
    eager = [node for node in ast.walk(tree) if node not in lazy]
    assert imported_modules(eager) <= when_loaded
    assert imported_modules(lazy) <= when_asked
    assert not list(dynamic_imports(tree))


# Habits


def test_nothing_is_reassociated_by_request() -> None:
    assert [place(path) for path in SOURCES if mentions_of_fastmath(parsed(path))] == []


def test_no_setting_comes_from_the_environment() -> None:
    readers = [place(path) for path in outside("experiments") if reads_of_the_environment(parsed(path))]
    assert readers == []


def test_no_file_is_a_drawer_for_what_has_no_place() -> None:
    drawers = ("utils", "util", "common", "helpers", "misc")
    assert [place(path) for path in SOURCES if path.stem in drawers or path.parent.name in drawers] == []


def test_sources_are_short_enough_to_read() -> None:
    lengths = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > LARGEST} == {}


def test_every_module_says_what_it_is() -> None:
    assert [place(path) for path in outside("experiments") if not ast.get_docstring(parsed(path))] == []


# The facade


def natural(name: str) -> list[tuple[bool, int | str]]:
    """Digits count as numbers: FP4 before FP16."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part]


def as_ruff_sorts(names: list[str]) -> list[str]:
    """CONSTANTS, then Classes, then the rest (ruff's RUF022)."""

    def key(name: str) -> tuple:
        constant, capital = name.isupper(), name[:1].isupper()
        return (0 if constant else 1 if capital else 2, natural(name))

    return sorted(names, key=key)


def exported(path: Path) -> list[str] | None:
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


@pytest.mark.parametrize("path", [p for p in SOURCES if exported(p) is not None], ids=place)
def test_exports_are_sorted_and_named_once(path: Path) -> None:
    names = exported(path) or []
    assert names == as_ruff_sorts(names)
    assert len(set(names)) == len(names)


def test_facade_exports_its_public_names() -> None:
    public = {
        name
        for name, value in vars(precision).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(precision.__all__)


@pytest.mark.parametrize("name", [n for n in precision.__all__ if callable(getattr(precision, n))])
def test_everything_callable_in_the_facade_has_a_docstring(name: str) -> None:
    text = getattr(precision, name).__doc__ or ""
    assert text.strip()
    assert not text.startswith(f"{name}("), "a dataclass without a docstring is given its signature for one"


IMPORT = """
import json, sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "loaded": sorted({{name.split(".")[0] for name in sys.modules}})}}))
"""


@pytest.mark.parametrize("module", ["precision", "precision.backends.numpy_"])
def test_import_loads_neither_jax_nor_numba(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORT.format(module=module)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    print(f"import {module}: {report['seconds']:.3f} s")
    assert not {"jax", "jaxlib", "numba", "llvmlite"} & set(report["loaded"])
    assert "precision" in report["loaded"]


# What stands beside the sources


def test_readme_examples_hold() -> None:
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False, encoding="utf-8")
    assert found.attempted >= 6
    assert found.failed == 0


def constraints() -> list[str]:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def canonical(requirement: str) -> str:
    """Name of a requirement as package indexes compare it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_constraints_pin_each_package_once() -> None:
    assert [line for line in constraints() if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    names = [canonical(line) for line in constraints()]
    assert len(set(names)) == len(names)


def test_every_dependency_is_pinned() -> None:
    wanted = [*project()["dependencies"], *chain(*project()["optional-dependencies"].values())]
    assert set(map(canonical, wanted)) <= set(map(canonical, constraints()))


def test_no_address_of_a_package_index_is_written_down() -> None:
    files = [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "constraints.txt", *(ROOT / ".ci").rglob("*")]
    texts = {place(path): path.read_text(encoding="utf-8") for path in files if path.is_file()}
    assert len(texts) >= 4
    assert [name for name, text in texts.items() if re.search(r"https?:", text) or "index-url" in text] == []


def test_changelog_is_headed_by_what_comes_next_or_by_this_version() -> None:
    version = project()["version"]
    assert VERSION.fullmatch(version)
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert text.startswith("# Changelog\n")
    assert headings
    released = [heading.split()[0].strip("[]") for heading in headings if heading != "Unreleased"]
    assert headings[0] == "Unreleased" or released[0] == version
    assert all(VERSION.fullmatch(number) for number in released)
    assert released[:1] in ([], [version])
    assert released == sorted(released, key=lambda number: tuple(map(int, number.split("."))), reverse=True)
