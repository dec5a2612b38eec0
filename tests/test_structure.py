"""The house: who may import whom, checked on the source."""

import ast
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


@pytest.mark.parametrize("phase", ["remover", "detector", "classifier"])
def test_training_phases_do_not_know_each_other(phase):
    names = imports_of(ROOT / PACKAGE / "training" / f"{phase}.py")
    phases = {f"{PACKAGE}.training.{p}" for p in ("remover", "detector", "classifier")}
    assert not names & phases
    assert not {n for n in names if n.startswith(f"{PACKAGE}.training.tasks")}


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
