r"""Compiles what users run for a GPU that is not there, and predicts its cost.

  pip install "uronet_jax[gpu-check]"
  python -m launch.compile_gpu --card=h100 --devices=1,8 --out=predictions_h100.json

A row of the file is a program: whether it compiles, its memory, what its kernels
compute and move, what the cards exchange, and the least time by the rates of the card.
Nothing runs. The file is written after each program, and the same command goes on.
"""

import importlib

import jax
from absl import flags

from launch import cli
from uronet_jax.benchmarking import compile_gpu
from uronet_jax.benchmarking.cards import CARDS
from uronet_jax.benchmarking.gpu_programs import CONFIGS
from uronet_jax.progress import Progress, StopSignal


def read_configs() -> dict:
    """Returns name and preset -> config, of what is trained."""
    found = {}
    for text in CONFIGS:
        name, _, preset = text.partition(":")
        module = importlib.import_module(f"configs.{name}")
        found[text] = module.get_config(preset).to_dict()
    return found


def main(argv: list[str]) -> None:
    """Compiles what the flags describe."""
    del argv
    values = flags.FLAGS
    result = compile_gpu.compile_programs(
        values.out,
        read_configs(),
        card=values.card,
        devices=compile_gpu.parse_devices(values.devices),
        only=values.only,
        force=values.force,
        progress=Progress(StopSignal()),
    )
    print("\n".join(compile_gpu.summary_lines(result, values.only)))
    print(f"wrote {values.out}")


if __name__ == "__main__":
    # Arrays are made on the host; the plugin would look for a driver.
    jax.config.update("jax_platforms", "cpu")
    flags.DEFINE_enum("card", "h100", CARDS, "Which card.")
    flags.DEFINE_list("devices", "1,8", "Numbers of cards.")
    flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
    flags.DEFINE_list("only", "", "Some of the programs; * is any text.")
    flags.DEFINE_bool("force", False, "Compile again what the file holds.")
    cli.run(main)
