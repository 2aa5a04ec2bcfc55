"""The shape of the house, read from the source: who imports whom, what is packed, and habits that must not creep in."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("marl", "mixers", "credit", "envs")
MAY_IMPORT = {"marl": {"mixers", "credit", "envs"}, "mixers": set(), "credit": set(), "envs": set()}
TOOLS = ("scripts", "tests")
PACKED = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = [ROOT / "__init__.py", *PACKED, *sorted(path for folder in TOOLS for path in (ROOT / folder).rglob("*.py"))]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


packed_files = pytest.mark.parametrize("path", PACKED, ids=name)
source_files = pytest.mark.parametrize("path", SOURCES, ids=name)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(source: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(source) if isinstance(node, ast.Import | ast.ImportFrom))


def own_parts(source: ast.AST, folders: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, top-level part) of every relative import in a module that lies in `folders`, such as ("marl", "learners")."""
    for node in imports(source):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folders[: len(folders) + 1 - node.level], *(node.module or "").split(".")]
            base = [part for part in base if part]
            yield from ((node.lineno, base[0]) for _ in base[:1])
            yield from ((node.lineno, alias.name) for alias in node.names if not base)


def forbidden_imports(source: ast.AST, folders: tuple[str, ...]) -> list[str]:
    """One sentence per import that points the wrong way, from a module that lies in `folders`."""
    home = folders[0]
    wrong = [
        f"line {line}: {home} imports {part}" for line, part in own_parts(source, folders) if part != home and part not in MAY_IMPORT[home]
    ]
    for node in imports(source):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if not node.level else []
        wrong += [
            f"line {node.lineno}: {module} must be imported relatively"
            for module in modules
            if module.split(".")[0] in {"teamcredit", *PACKAGES, *TOOLS}
        ]
    return wrong


@packed_files
def test_imports_run_from_marl_to_the_others_and_are_relative(path):
    assert forbidden_imports(tree(path), path.relative_to(ROOT).parent.parts) == []


@pytest.mark.parametrize(
    "line, folders, allowed",
    [
        ("from ..mixers.qmix import QMix", ("marl",), True),
        ("from ...mixers.qmix import QMix", ("marl", "learners"), True),
        ("from ..data import Rollout", ("marl", "learners"), True),
        ("from .. import mixers", ("marl",), True),
        ("from .base import Mixer", ("mixers",), True),
        ("from . import base", ("mixers",), True),
        ("from ..envs.base import TeamSpec", ("mixers",), False),
        ("from .. import envs", ("credit",), False),
        ("from ..marl.data import Rollout", ("envs",), False),
        ("from teamcredit.envs.base import TeamSpec", ("marl",), False),
        ("import teamcredit.envs", ("marl",), False),
        ("from ..tests import helpers", ("marl",), False),
    ],
)
def test_the_import_rule_itself_tells_right_from_wrong(line, folders, allowed):
    assert (forbidden_imports(ast.parse(line), folders) == []) == allowed


@source_files
def test_no_source_postpones_its_annotations(path):
    # jaxtyping reads the annotations of a function when it is defined.
    assert not [node.lineno for node in imports(tree(path)) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


@packed_files
def test_no_signature_says_self(path):
    # beartype decorates a method before its class exists, so it cannot tell what Self is: the class is named, in quotes.
    assert not [alias for node in imports(tree(path)) for alias in node.names if alias.name == "Self"]


def broad_excepts(source: ast.AST) -> list[int]:
    """Lines of handlers that name no error, or one of the two that catch (nearly) all."""
    handlers = [node for node in ast.walk(source) if isinstance(node, ast.ExceptHandler)]
    named = {handler: [handler.type] if not isinstance(handler.type, ast.Tuple) else handler.type.elts for handler in handlers}
    broad = ("Exception", "BaseException")
    return [h.lineno for h, types in named.items() if any(t is None or (isinstance(t, ast.Name) and t.id in broad) for t in types)]


@source_files
def test_no_handler_catches_everything(path):
    assert broad_excepts(tree(path)) == []


@pytest.mark.parametrize("handler", ["except:", "except Exception:", "except (ValueError, BaseException) as error:"])
def test_the_rule_on_handlers_sees_a_broad_one(handler):
    assert broad_excepts(ast.parse(f"try:\n    run()\n{handler}\n    pass")) == [3]


DRAWS = re.compile(
    r"^(torch\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|multinomial|bernoulli|normal|seed|manual_seed)"
    r"|(np|numpy)\.random\.(?!default_rng$|Generator$|SeedSequence$|PCG64$|Philox$)\w+"
    r"|random\.(?!Random$)\w+)$"
)


def global_draws(source: ast.AST) -> list[str]:
    """Calls that move a global generator: no `generator=`, and not inside `with torch.random.fork_rng(...)`."""
    draws = []

    def visit(node: ast.AST, forked: bool) -> None:
        if isinstance(node, ast.With):
            forked = forked or any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call) and not forked:
            called = ast.unparse(node.func)
            if DRAWS.match(called) and not any(keyword.arg == "generator" for keyword in node.keywords):
                draws.append(f"line {node.lineno}: {called}")
        for child in ast.iter_child_nodes(node):
            visit(child, forked)

    visit(source, forked=False)
    return draws


@packed_files
def test_no_module_draws_from_a_global_generator(path):
    assert global_draws(tree(path)) == []


@pytest.mark.parametrize(
    "line, count",
    [
        ("torch.randn(3)", 1),
        ("torch.randn(3, generator=g)", 0),
        ("np.random.normal(3)", 1),
        ("np.random.default_rng(3)", 0),
        ("random.choice(names)", 1),
        ("with torch.random.fork_rng():\n    torch.manual_seed(3)", 0),
        ("torch.manual_seed(3)", 1),
    ],
)
def test_the_rule_on_generators_tells_a_global_draw_from_a_keyed_one(line, count):
    assert len(global_draws(ast.parse(line))) == count


def test_pyproject_names_every_package_folder():
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    assert sorted(SETUPTOOLS["packages"]) == sorted(["teamcredit", *(".".join(("teamcredit", *folder.parts)) for folder in folders)])


def test_every_module_lies_in_a_folder_with_an_init():
    assert not [name(path) for path in PACKED if not (path.parent / "__init__.py").exists()]


def test_no_folder_of_tests_is_a_package():
    # pytest would import the root a second time, under the folder's name.
    assert not [name(path) for path in (ROOT / "tests").rglob("__init__.py")]


def test_names_of_test_files_are_unique():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def data_files() -> set[str]:
    """The files of `package-data`, as they lie in the wheel."""
    found = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            matches = list(folder.glob(pattern))
            assert matches, f"package-data of {package}: nothing matches {pattern}"
            found |= {f"teamcredit/{name(path)}" for path in matches}
    return found


def test_every_data_file_of_the_packages_is_declared():
    # A file that is not declared is missing from the wheel, and only there.
    present = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    present = {f"teamcredit/{name(path)}" for path in present if path.suffix not in {".py", ".pyc"}}
    assert present <= data_files()


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for package in PACKAGES + TOOLS:
        copytree(ROOT / package, source / package, ignore=ignore_patterns("__pycache__"))
    for file in ("__init__.py", "py.typed", "pyproject.toml", "README.md", "LICENSE"):
        (source / file).write_bytes((ROOT / file).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)

    (wheel,) = tmp_path.glob("*.whl")
    held = {entry for entry in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in entry}
    assert held == {"teamcredit/__init__.py", *(f"teamcredit/{name(path)}" for path in PACKED), *data_files()}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "{'torch', 'numpy', 'scipy', 'pettingzoo', 'gymnasium', 'supersuit', 'pygame', 'PIL'} & set(sys.modules)"


def test_importing_the_package_loads_nothing_heavy():
    assert run_python(f"import sys, teamcredit, teamcredit.marl; print({HEAVY})") == "set()\n"


@pytest.mark.parametrize("command", [[], ["train"], ["lazy"], ["envs", "list"]])
def test_help_loads_nothing_heavy(command):
    code = f"""
import sys
from teamcredit.marl.cli import main
sys.argv = ["marl", *{command}, "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print({HEAVY})
"""
    assert run_python(code).endswith("set()\n")


def typed_names() -> set[str]:
    """What the root offers to type checkers, under `if TYPE_CHECKING`."""
    (block,) = [node for node in tree(ROOT / "__init__.py").body if isinstance(node, ast.If)]
    return {alias.asname or alias.name for node in imports(block) for alias in node.names}


def test_people_and_type_checkers_are_offered_the_same_names():
    import teamcredit

    assert {*teamcredit.__all__} - {"__version__"} == typed_names()
    assert {*teamcredit.__all__} <= {*dir(teamcredit)}


@pytest.mark.parametrize("public", sorted(typed_names()))
def test_every_public_name_loads(public):
    import teamcredit

    assert getattr(teamcredit, public).__name__.endswith(public)


def test_an_unknown_public_name_is_refused_with_the_names_there_are():
    import teamcredit

    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has .*train"):
        _ = teamcredit.trian


def test_the_version_is_the_one_of_pyproject():
    import teamcredit

    assert teamcredit.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
