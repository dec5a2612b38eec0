"""What a machine without a network needs: packages, packed data sets, a classifier."""

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from uronet_jax.benchmarking.accelerator_stages import DATA_SETS
from uronet_jax.data import packed
from uronet_jax.writers import PartsWriter

# What images with JAX, Flax and PyTorch usually lack of ours, and the peers.
MISSING_PACKAGES = (
    *("array-record", "dm-tree", "docstring-parser", "googleapis-common-protos"),
    *("grain", "immutabledict", "ml-collections", "portpicker", "promise"),
    *("simple-parsing", "tensorflow-datasets", "tensorflow-metadata"),
    *("termcolor", "toml"),
    *("foolbox", "eagerpy", "gitpython", "gitdb", "smmap", "torchattacks"),
    *("imagecorruptions-imaug", "corrupt-tta"),
    # Those have most of these; with JAX, Flax and PyTorch alone there are none.
    *("attrs", "certifi", "charset-normalizer", "cloudpickle", "contourpy"),
    *("cycler", "flatbuffers", "fonttools", "idna", "kiwisolver", "matplotlib"),
    *("packaging", "pillow", "pyparsing", "python-dateutil", "requests"),
    *("safetensors", "six", "tqdm", "urllib3", "wrapt"),
)
# Wheels are built for the oldest C library that they run with.
_PLATFORMS = tuple(
    f"manylinux{version}_x86_64"
    for version in ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "1")
)


def write_bundle(
    folder: Path,
    data: Path,
    *,
    names: Sequence[str] = DATA_SETS,
    classifier: Path | None = None,
    python: str = "3.12",
    part_bytes: int = 2**31,
) -> list[Path]:
    """Writes an archive in parts; `cat bundle.tar.xz.* | tar xJ` unpacks it.

    Args:
        folder: Where the parts `bundle.tar.xz.0000`, `bundle.tar.xz.0001`, ... go.
        data: Folder of the packed data sets, see `launch.prepare_data --from=packed`.
        names: Data sets, keys of `packed.SETS`.
        classifier: `.npz` of the classifier on clean images.
        python: Version that the packages are for, on x86-64 Linux.
        part_bytes: Size of a part.

    Returns:
        The parts.

    Raises:
        FileNotFoundError: If a file of a data set or the classifier is not there.
        OSError: If pip cannot get a package.
    """
    files = [path for name in names for path in packed_files(data, name)]
    if classifier is not None and not classifier.is_file():
        raise FileNotFoundError(f"no classifier at {classifier}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        _install(site, Path(temporary) / "wheels", python)
        with PartsWriter(folder / "bundle.tar.xz", part_bytes) as file:
            with tarfile.open(fileobj=file, mode="w|xz") as archive:
                archive.add(site, arcname="site")
                for path in files:
                    archive.add(path, arcname=f"data/{path.name}")
                if classifier is not None:
                    archive.add(classifier, arcname=f"models/{classifier.name}")
    return sorted(folder.glob("bundle.tar.xz.[0-9]*"))


def packed_files(data: Path, name: str) -> list[Path]:
    """Returns the files of a packed data set; FileNotFoundError if one is missing."""
    if name not in packed.SETS:
        raise ValueError(f"no packed set {name!r}: there are {', '.join(packed.SETS)}")
    files = [data / x for part in packed.SETS[name].files.values() for x in part]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{data} lacks {', '.join(missing)} of {name}")
    return files


def _install(site: Path, wheels: Path, python: str) -> None:
    """Installs the packages for another machine, in the versions of this one."""

    def pip(*arguments: str) -> None:
        command = [sys.executable, "-m", "pip", *arguments, "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no word of it"]
            raise OSError(f"pip {arguments[0]} failed: {lines[-1]}")

    def pinned(name: str) -> str:
        try:
            return f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            return name

    # There is no wheel of it, and it has no compiled code.
    pip("wheel", "--no-deps", "--wheel-dir", str(wheels), pinned("promise"))
    others = [pinned(name) for name in MISSING_PACKAGES if name != "promise"]
    platforms = [x for name in _PLATFORMS for x in ("--platform", name)]
    pip(
        *("install", "--no-deps", "--no-compile", "--target", str(site)),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={python}"),
        *(*platforms, *others, *map(str, wheels.glob("*.whl"))),
    )
