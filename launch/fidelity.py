"""Compares the corruptions with stored outputs of the original programs.

  python -m launch.fidelity --golden_dir=FOLDER \
      --out=docs/results/corruption_fidelity.json

The folder holds the archives that `uronet_jax.benchmarking.fidelity` describes.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from launch import cli
from uronet_jax.benchmarking import fidelity
from uronet_jax.benchmarking.corruptions import photographs
from uronet_jax.corruptions import corrupt, list_severities
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import results


def measure(golden_dir: str) -> list[dict[str, Any]]:
    """Returns the rows of every archive, with its name as `reference`.

    Raises:
        FileNotFoundError: If an archive is missing.
    """
    paths = {name: Path(golden_dir) / f"{name}.npz" for name in fidelity.ARCHIVES}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise FileNotFoundError(f"no archive at {', '.join(missing)}")
    return [
        {"reference": name, "suite": suite, **row}
        for name, suite in fidelity.ARCHIVES.items()
        for row in fidelity.compare_archive(dict(np.load(paths[name])), suite)
    ]


def fast_jpeg() -> list[dict[str, Any]]:
    """Compares the two fidelities of JPEG on generated images, at every severity."""
    rows = []
    for suite, side in (("cifar_c", 32), ("imagenet_c", 224)):
        images = jnp.asarray(photographs(16, side), jnp.float32) / 255.0
        for severity in list_severities(suite):
            exact, fast = (
                np.asarray(
                    corrupt(
                        jax.random.key(0),
                        images,
                        f"{suite}/jpeg_compression",
                        severity=severity,
                        uint8=True,
                        fidelity=mode,
                    )
                ).astype(int)
                for mode in ("exact", "fast")
            )
            difference = np.abs(exact - fast)
            rows.append(
                {
                    "reference": f"exact mode, {side}x{side}",
                    "suite": suite,
                    "corruption": "jpeg_compression, fast",
                    "severity": severity,
                    "max_difference": int(difference.max()),
                    "share_differing": float((difference > 0).mean()),
                    "mean_difference": float(difference.mean()),
                }
            )
    return rows


def main(argv: list[str]) -> None:
    """Measures and writes."""
    del argv
    start = time.perf_counter()
    rows = [*measure(flags.FLAGS.golden_dir), *fast_jpeg()]
    seconds = time.perf_counter() - start
    result = {
        "schema": results.FIDELITY,
        "rows": rows,
        **provenance({"archives": list(fidelity.ARCHIVES)}, seconds=seconds),
    }
    write_json(flags.FLAGS.out, result)
    worst = max(rows, key=lambda row: row["max_difference"])
    print(f"wrote {flags.FLAGS.out}; largest difference: {worst}")


if __name__ == "__main__":
    flags.DEFINE_string("golden_dir", None, "Folder of the archives.", required=True)
    flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
    cli.run(main)
