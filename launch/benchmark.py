"""Measures training, pipelines, evaluation, serving and memory against named peers.

  python -m launch.benchmark --what=remover,data --out=benchmark.json

Every time is given as a ratio to that of a peer that does the same work, in turns, in
the same process. `pip install uronet_jax[benchmark]` brings the peers: PyTorch for the
training steps (with foolbox for adversarial noise training, torchvision and timm for
networks on large images) and for serving,
imagecorruptions-imaug and corrupt-tta for the corruptions, foolbox and torchattacks for
the attacks, and what the transformations are compared with. A row that the file holds
already is not measured again, so a run that was cut short goes on with the same line.
"""

from absl import flags

from launch import cli
from uronet_jax.benchmarking.suite import GROUPS, ROWS, run_benchmark
from uronet_jax.benchmarking.torch_peer import COMPILE_MODES
from uronet_jax.reports import results


def main(argv: list[str]) -> None:
    """Measures what the flags describe."""
    del argv
    values = flags.FLAGS
    result = run_benchmark(
        values.what,
        values.out,
        scale=values.scale,
        threads=values.threads,
        skip_peer=values.skip_peer,
        compile_mode=values.torch_compile,
        force=values.force,
        batch_size=values.batch_size,
        dtype=values.dtype,
        repeats=values.repeats,
        steps_per_sample=values.steps_per_sample,
        classifier=values.classifier,
        linen_repeats=0 if values.skip_naive else None,
    )
    print(results.render_benchmark(result))
    print(f"wrote {values.out}")


if __name__ == "__main__":
    flags.DEFINE_list(
        "what", "all", f"all, {', '.join(GROUPS)}, or some of {','.join(ROWS)}."
    )
    flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
    flags.DEFINE_enum("scale", "full", ["full", "tiny"], "tiny is for tests.")
    flags.DEFINE_integer("batch_size", None, "Default: 128.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Computation.")
    flags.DEFINE_integer("repeats", 5, "Rounds of every comparison.")
    flags.DEFINE_integer(
        "steps_per_sample", None, "Steps timed as one. Default: 1 on a CPU, else 50."
    )
    flags.DEFINE_string("classifier", None, "Default: resnet20 on a CPU, else wrn16_8.")
    flags.DEFINE_bool(
        "skip_naive",
        False,
        "Leave out the naive linen remover (15 to 26 s a step on CPU).",
    )
    flags.DEFINE_bool("skip_peer", False, "Leave PyTorch out.")
    flags.DEFINE_enum(
        "torch_compile",
        "auto",
        COMPILE_MODES,
        "How PyTorch compiles; auto is default on a GPU and off on a CPU.",
    )
    flags.DEFINE_integer(
        "threads", None, "Cores that everybody may use. Default: all. Linux only."
    )
    flags.DEFINE_bool("force", False, "Measure again what the file holds.")
    cli.run(main)
