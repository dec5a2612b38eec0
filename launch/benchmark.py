"""Measures training steps, pipelines, evaluation and memory against named peers.

  python -m launch.benchmark --what=remover,data --out=benchmark.json

Every time is given as a ratio to that of a peer that does the same work, in turns, in
the same process. `pip install uronet_jax[benchmark]` brings the peers: PyTorch for the
training steps, imagecorruptions-imaug and corrupt-tta for the corruptions, foolbox and
torchattacks for the attacks. A row that the file holds already is not measured again,
so a run that was cut short goes on with the same command.
"""

from absl import flags

from launch import cli
from uronet_jax.benchmarking.suite import GROUPS, ROWS, run_benchmark
from uronet_jax.benchmarking.torch_peer import COMPILE_MODES
from uronet_jax.reports import results

_WHAT = flags.DEFINE_list(
    "what", "all", f"all, {', '.join(GROUPS)}, or some of {','.join(ROWS)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
_SCALE = flags.DEFINE_enum("scale", "full", ["full", "tiny"], "tiny is for tests.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Default: 128.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Computation.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds of every comparison.")
_STEPS = flags.DEFINE_integer(
    "steps_per_sample", None, "Steps timed as one. Default: 1 on a CPU, else 50."
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "Default: resnet20 on a CPU, else wrn16_8."
)
_SKIP_LINEN = flags.DEFINE_bool(
    "skip_naive", False, "Leave out the naive linen remover (15 to 26 s a step on CPU)."
)
_SKIP_PEER = flags.DEFINE_bool("skip_peer", False, "Leave PyTorch out.")
_TORCH_COMPILE = flags.DEFINE_enum(
    "torch_compile",
    "auto",
    COMPILE_MODES,
    "How PyTorch compiles; auto is default on a GPU and off on a CPU.",
)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Cores that everybody may use. Default: all. Linux only."
)
_FORCE = flags.DEFINE_bool("force", False, "Measure again what the file holds.")


def main(argv: list[str]) -> None:
    """Measures what the flags describe."""
    del argv
    result = run_benchmark(
        _WHAT.value,
        _OUT.value,
        scale=_SCALE.value,
        threads=_THREADS.value,
        skip_peer=_SKIP_PEER.value,
        compile_mode=_TORCH_COMPILE.value,
        force=_FORCE.value,
        batch_size=_BATCH_SIZE.value,
        dtype=_DTYPE.value,
        repeats=_REPEATS.value,
        steps_per_sample=_STEPS.value,
        classifier=_CLASSIFIER.value,
        linen_repeats=0 if _SKIP_LINEN.value else None,
    )
    print(results.render_benchmark(result))
    print(f"wrote {_OUT.value}")


if __name__ == "__main__":
    cli.run(main)
