r"""Reproduces tables and figures of a paper: trains what is missing, then measures.

  python -m launch.reproduce --config=configs/reproduce.py:small \
      --experiment=table2,table7 --workdir=runs/small/reproduction

`--experiment=all` does everything that the prepared data allow; it takes all noises and
classifiers that the experiments name. Every finished model and every finished part of a
result is on disk at once: run the same command again to go on, Ctrl-C and SIGTERM save
first. Writes WORKDIR/<experiment>.json.
"""

from absl import flags

from configs.reproduce import get_config
from launch import cli
from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.papers.runner import choose_experiments, run_experiments
from uronet_jax.progress import StoppedError, StopSignal


def main(argv: list[str]) -> None:
    """Computes what the flags describe."""
    del argv
    values = flags.FLAGS
    config = values.config.to_dict()
    stop = StopSignal()
    try:
        run_experiments(
            config,
            choose_experiments(values.experiment),
            values.workdir,
            preset=get_config(config["preset"]).to_dict(),
            data_dir=values.data_dir,
            force=values.force,
            skip_missing=values.experiment == "all",
            stop=stop,
        )
    except StoppedError:
        print(f"stopped by {stop.received}; saved. Run the same command to go on.")


if __name__ == "__main__":
    cli.define_experiment_flags("reproduce:PRESET")
    flags.DEFINE_string(
        "experiment",
        None,
        f"all (hours of training), or a list of {', '.join(EXPERIMENTS)}.",
        required=True,
    )
    flags.DEFINE_bool(
        "force", False, "Compute and write results anew that are finished."
    )
    cli.run(main)
