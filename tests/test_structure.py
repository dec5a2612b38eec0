"""The house: who may import whom, checked on the source."""

import ast
import collections
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "uronet_jax"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path):
    """Returns the modules a file imports, anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path):
    return {name.split(".")[0] for name in imports_of(path)}


def files_that(condition):
    return {str(p.relative_to(ROOT / PACKAGE)) for p in FILES if condition(p)}


def test_the_files_were_found():
    assert len(FILES) > 25
    assert "uronet_jax.models.layers" in imports_of(ROOT / PACKAGE / "defense.py")


@pytest.mark.parametrize("part", ["corruptions", "attacks", "models"])
def test_pure_parts_import_only_jax_flax_optax_numpy(part):
    allowed = {"jax", "flax", "optax", "numpy", *sys.stdlib_module_names}
    for path in (ROOT / PACKAGE / part).rglob("*.py"):
        names = imports_of(path)
        own = {n for n in names if n.split(".")[0] == PACKAGE}
        outside = {n.split(".")[0] for n in names - own}
        assert outside <= allowed, f"{path}: {outside - allowed}"
        allowed_own = (f"{PACKAGE}.{part}.", f"{PACKAGE}.batches.")
        others = {n for n in own if not f"{n}.".startswith(allowed_own)}
        assert others <= {PACKAGE}, f"{path}: {others}"


@pytest.mark.parametrize(
    ("name", "users"),
    [
        *((name, set()) for name in ("absl", "ml_collections", "launch", "configs")),
        ("orbax", {"checkpoints.py"}),
    ],
)
def test_what_only_some_files_import(name, users):
    assert files_that(lambda path: name in roots(path)) == users


@pytest.mark.parametrize(
    ("pattern", "users"),
    [
        # Devices, the configuration of JAX (programs do it), and names of phases.
        (r"make_mesh|NamedSharding\(|jax\.pmap|shard_map", {"sharding.py"}),
        (r"jax\.config\.update", set()),
        # Else the machine's locale decides how text is read.
        (r"read_text\(\)|write_text\((?!.*encoding)", set()),
        (r"""phase"\]\s*[!=]=|\bphase\s*[!=]=\s*["']""", set()),
    ],
)
def test_what_only_some_files_mention(pattern, users):
    found = re.compile(pattern)
    assert files_that(lambda path: found.search(path.read_text("utf-8"))) == users


def test_tensorflow_is_never_imported_with_a_module():
    for path in FILES:
        for node in parse(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names]
                bad = {"tensorflow", "tensorflow_datasets", "torch", "tensorboardX"}
                assert not bad & {n.split(".")[0] for n in names}, path


@pytest.mark.parametrize(
    "part, above",
    [
        ("data", ("defense", "training", "evaluation", "reports")),
        ("training", ("evaluation", "reports", "benchmarking")),
        ("evaluation", ("arena", "reports", "benchmarking")),
        ("arena", ("reports", "benchmarking", "photos")),
        ("reports", ("benchmarking",)),
        ("transformations", ("defense", "data", "training", "evaluation", "reports")),
    ],
)
def test_no_room_imports_one_above_it(part, above):
    rooms = tuple(f"{PACKAGE}.{room}." for room in above)
    for path in (ROOT / PACKAGE / part).rglob("*.py"):
        assert not {n for n in imports_of(path) if f"{n}.".startswith(rooms)}, path


def test_only_launch_imports_the_papers():
    papers = f"{PACKAGE}.papers."
    found = files_that(lambda p: any(f"{n}.".startswith(papers) for n in imports_of(p)))
    assert all(name.startswith("papers/") for name in found), found


def test_what_papers_share_imports_no_paper():
    """But for the three lists of all papers."""
    folder = ROOT / PACKAGE / "papers"
    papers = [p.name for p in folder.iterdir() if (p / "published").is_dir()]
    assert len(papers) == 3
    rooms = tuple(f"{PACKAGE}.papers.{paper}." for paper in papers)
    found = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if path.relative_to(folder).parts[0] not in papers
        and any(f"{name}.".startswith(rooms) for name in imports_of(path))
    }
    assert found == {"all_models.py", "experiments.py", "pages/all_papers.py"}


def test_a_phase_is_known_to_its_file_and_the_registry_alone():
    from uronet_jax.training.phases import PHASES

    modules = {f"{PACKAGE}.training.{phase}" for phase in PHASES}
    for phase in PHASES:
        own = f"{PACKAGE}.training.{phase}"
        names = imports_of(ROOT / PACKAGE / "training" / f"{phase}.py")
        assert not names & (modules - {own}), phase
    users = files_that(lambda path: imports_of(path) & modules)
    # The quickstart and the benchmarks put tasks together by hand.
    allowed = {"training/phases.py", "quickstart.py"}
    assert {u for u in users if not u.startswith("benchmarking/")} == allowed


def test_no_two_public_things_have_one_name():
    """Neither classes, functions nor constants of modules."""
    places = collections.defaultdict(list)
    for path in FILES:
        for node in parse(path).body:
            names = [getattr(node, "name", "_")]
            if isinstance(node, ast.Assign):
                names = [x.id for x in node.targets if isinstance(x, ast.Name)]
            if isinstance(node, ast.AnnAssign):
                names = [node.target.id]
            for name in names:
                places[name].append(str(path.relative_to(ROOT / PACKAGE)))
    public = {name: found for name, found in places.items() if name[0] != "_"}
    assert not {name: found for name, found in public.items() if len(found) > 1}


def test_launch_holds_flags_and_one_call():
    for path in (ROOT / "launch").glob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < (160 if path.stem == "cli" else 90), f"{path.name}: {lines}"


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, uronet_jax; assert uronet_jax.__version__; dir(uronet_jax); "
        "heavy = {'jax', 'flax', 'numpy', 'orbax', 'grain'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_exists():
    import uronet_jax

    for name in uronet_jax.__all__:
        assert getattr(uronet_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = uronet_jax.nothing
