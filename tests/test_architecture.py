"""The house: which room may know which, and what starts at once."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import graftage

TOP = Path(graftage.__file__).parent
ROOMS = ["data", "features", "learn", "measure", "report", "serve", "fleet"]
VERBS = {"graftage.pipeline", "graftage.surveying", "graftage.asking"}
EDGES = {"graftage", "graftage.demo", "graftage.sklearn"}  # and the commands
HEAVY = {"torch", "timm", "openvino"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(TOP.parent).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every graftage module named by an import anywhere in the file, as "graftage", "graftage.room" or in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & set(FILES)) or {node.module or ""}
    return {name for name in found if name.split(".")[0] == "graftage"}


FILES = {name_of(path): path for path in sorted(TOP.rglob("*.py"))}
IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def room(module: str) -> str:
    """The room that a module lies in, "" for those on the top floor."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def in_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rooms_are_there_and_hold_their_modules() -> None:
    assert {room(name) for name in FILES} == {"", *ROOMS}
    assert sum(len(names) for names in IMPORTS.values()) > 30  # the reader of imports reads


@pytest.mark.parametrize("name", FILES)
def test_a_room_knows_only_rooms_before_it_and_errors(name: str) -> None:
    if not room(name):
        return
    allowed = {*ROOMS[: ROOMS.index(room(name)) + 1]}
    strangers = {m for m in IMPORTS[name] if m != "graftage.errors" and room(m) not in allowed}
    assert strangers == set()


def test_errors_import_nothing() -> None:
    assert not [n for n in ast.walk(ast.parse(FILES["graftage.errors"].read_text())) if isinstance(n, ast.Import)]
    assert IMPORTS["graftage.errors"] == set()


def knowing(some: set[str]) -> set[str]:
    """Who imports any of these modules."""
    return {name for name, known in IMPORTS.items() if known & some}


def test_only_the_edges_know_the_verbs() -> None:
    assert {name for name in knowing(VERBS) if not name.startswith("graftage.commands.")} == EDGES


def test_only_the_command_line_knows_the_commands() -> None:
    commands = {name for name in FILES if name.startswith("graftage.commands.")}
    assert {name for name in knowing(commands) if name not in commands} == {"graftage.cli"}


def test_only_the_pipeline_and_its_steps_know_the_way_from_pictures_to_a_model_file() -> None:
    way = {"data", "features", "learn", "measure", "serve"}
    top = {name: known for name, known in IMPORTS.items() if not room(name)}
    everywhere = {name for name, known in top.items() if {room(m) for m in known} >= way}
    assert everywhere == {"graftage.pipeline", "graftage.steps"}
    assert knowing({"graftage.steps"}) == {
        "graftage.pipeline",
        "graftage.surveying",  # a curve goes part of the way
        "graftage.measuring",  # steps that fill a file
        "graftage.deciding",
    }


def test_no_import_goes_round_in_a_circle() -> None:
    known = {name: names for name, names in IMPORTS.items() if name != "graftage"}  # it imports nothing until asked
    list(TopologicalSorter(known).static_order())  # raises CycleError, with the circle


@pytest.mark.parametrize("name", ROOMS)
def test_a_rooms_init_is_a_docstring(name: str) -> None:
    (only,) = ast.parse((TOP / name / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(only, ast.Expr)
    assert isinstance(only.value, ast.Constant)


def test_light_rooms_load_no_network_library() -> None:
    tuning = {f"graftage.learn.{name}" for name in ("faster", "network", "task", "tune")}  # PyTorch's own work
    light = [name for name in FILES if room(name) in ("data", "learn", "measure", "report") and name not in tuning]
    code = f"import importlib, sys, graftage; [importlib.import_module(n) for n in {light}]; print(*sys.modules)"
    loaded = set(in_fresh_interpreter(code).split())
    assert set(light) <= loaded
    assert loaded & HEAVY == set()


def test_import_graftage_costs_nothing() -> None:
    loaded = set(in_fresh_interpreter("import graftage, sys; print(*sys.modules)").split())
    assert loaded & (HEAVY | {"numpy", "scipy", "PIL", "rich"}) == set()


def test_help_starts_at_once() -> None:
    code = (
        "import sys; sys.argv = ['graftage', '--help']\n"
        "from graftage.cli import main\n"
        "try: code = main()\n"
        "except SystemExit as done: code = done.code\n"
        "assert not code, code\n"
        "print('\\nloaded:', *sys.modules)"
    )
    said, loaded = in_fresh_interpreter(code).split("\nloaded:")
    assert "train" in said
    assert set(loaded.split()) & HEAVY == set()


@pytest.mark.parametrize("name", graftage.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(graftage, name) is not None


def test_the_public_names_are_the_ones_with_a_home() -> None:
    assert {*graftage._HOME, "__version__"} == set(graftage.__all__) == set(dir(graftage))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        graftage.tarin  # noqa: B018
