"""The house: who may import whom, checked on the source."""

import ast
import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "uronet_jax"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def imports_of(path):
    """Returns the modules a file imports, anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("banned", ["absl", "ml_collections", "launch", "configs"])
def test_flags_and_configs_stay_out_of_the_package(banned):
    assert not files_that(lambda path: banned in roots(path))


def test_only_checkpoints_imports_orbax():
    assert files_that(lambda path: "orbax" in roots(path)) == {"checkpoints.py"}


def test_only_sharding_knows_devices():
    def builds_meshes(path):
        text = path.read_text(encoding="utf-8")
        names = ("make_mesh", "NamedSharding(", "jax.pmap", "shard_map")
        return any(name in text for name in names)

    assert files_that(builds_meshes) == {"sharding.py"}


def test_tensorflow_is_never_imported_with_a_module():
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names]
                bad = {"tensorflow", "tensorflow_datasets", "torch", "tensorboardX"}
                assert not bad & {n.split(".")[0] for n in names}, path


def imports(*parts):
    """Returns the modules of the package that files of some parts import."""
    paths = [p for part in parts for p in (ROOT / PACKAGE / part).rglob("*.py")]
    return {name for path in paths for name in imports_of(path)}


@pytest.mark.parametrize(
    "part, above",
    [
        ("data", ("defense", "training", "evaluation", "reports")),
        ("training", ("evaluation", "reports", "benchmarking")),
        ("evaluation", ("reports", "benchmarking")),
        ("reports", ("benchmarking",)),
        ("transformations", ("defense", "data", "training", "evaluation", "reports")),
    ],
)
def test_no_room_imports_one_above_it(part, above):
    names = {f"{PACKAGE}.{room}" for room in above}
    assert not {n for n in imports(part) if ".".join(n.split(".")[:2]) in names}


def test_only_launch_imports_the_papers():
    papers = ROOT / PACKAGE / "papers"
    found = files_that(
        lambda path: any(n.startswith(f"{PACKAGE}.papers") for n in imports_of(path))
    )
    assert {
        name for name in found if not (ROOT / PACKAGE / name).is_relative_to(papers)
    } == set()


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
    decides = re.compile(r"""phase"\]\s*[!=]=|\bphase\s*[!=]=\s*["']""")
    assert not files_that(lambda path: decides.search(path.read_text("utf-8")))


def public_names(path):
    """Returns the public classes, functions and constants that a module defines."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (x.id for x in node.targets if isinstance(x, ast.Name))


def test_no_two_public_things_have_one_name():
    places = collections.defaultdict(list)
    for path in FILES:
        for name in public_names(path):
            if not name.startswith("_"):
                places[name].append(str(path.relative_to(ROOT / PACKAGE)))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_launch_holds_flags_and_one_call():
    for path in (ROOT / "launch").glob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < (160 if path.stem == "cli" else 90), f"{path.name}: {lines}"


def test_configuration_of_jax_is_left_to_programs():
    calls = files_that(lambda path: "jax.config.update" in path.read_text("utf-8"))
    assert not calls


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
