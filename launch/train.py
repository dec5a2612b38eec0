"""Trains one phase, from where its work folder stands.

  python -m launch.train --config=configs/remover.py:small --workdir=runs/small/remover

Run it again to resume. SIGTERM or Ctrl-C saves and exits with status 0.
"""

import jax
from absl import flags
from ml_collections import config_flags

from launch import cli, wiring
from uronet_jax.training.run import fit

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/PHASE.py:PRESET", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and metrics.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the prepared data sets. Default: $URONET_DATA_DIR, else "
    "~/tensorflow_datasets.",
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Trains what the flags describe."""
    del argv
    stop = cli.StopSignal()
    experiment = wiring.build_experiment(
        _CONFIG.value.to_dict(), data_dir=_DATA_DIR.value
    )
    config = experiment.config
    result = fit(
        experiment.task,
        experiment.train_source,
        experiment.validation_source,
        batch_size=config["batch_size"],
        num_steps=config["num_steps"],
        seed=config["seed"],
        pipeline=config["data"]["pipeline"],
        eval_batch_size=config["eval_batch_size"],
        steps_per_dispatch=config["steps_per_dispatch"],
        log_every=config["log_every"],
        eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"],
        workdir=_WORKDIR.value,
        config=config,
        tensorboard=config["tensorboard"],
        stop=stop,
    )
    if jax.process_index() != 0:
        return
    step = int(result.state.step)
    if not result.finished:
        print(
            f"stopped by {stop.received or 'another process'} at step {step} of "
            f"{config['num_steps']}; saved. Run the same command to resume."
        )
        return
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in result.metrics.items())
    print(f"finished {config['phase']} at step {step}: validation {numbers}")


if __name__ == "__main__":
    cli.run(main)
