"""Trains one phase, from where its work folder stands.

  python -m launch.train --config=configs/remover.py:small --workdir=runs/small/remover

Run it again to resume. SIGTERM or Ctrl-C saves and exits with status 0. --data=photos
takes a folder of images, as of `uronet prepare`; --config.initial other weights.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from launch import cli
from launch.sizes import parse_size
from uronet_jax.progress import Progress, StoppedError, StopSignal
from uronet_jax.training import experiment as experiments
from uronet_jax.training.run import FitResult, fit


def train(
    config: dict[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Trains what `config` describes, from the newest checkpoint in `workdir`.

    Arguments and errors are those of `build_experiment` and `fit`.
    """
    progress = Progress(stop, shown=jax.process_index() == 0)
    made = experiments.build_experiment(config, data_dir, workdir, progress=progress)
    return fit(
        made.task,
        made.train_source,
        made.validation_source,
        **dataclasses.asdict(experiments.schedule_of(config)),
        seed=config["seed"],
        pipeline=config["data"]["pipeline"],
        workdir=workdir,
        config=made.config,
        tensorboard=config.get("tensorboard", False),
        stop=stop,
    )


def main(argv: list[str]) -> None:
    """Trains what the flags describe."""
    del argv
    values, config = flags.FLAGS, flags.FLAGS.config.to_dict()
    if values.data:
        if "config.data.name" in values:
            raise ValueError("--data and --config.data.name both name data: give one")
        splits = ("train_split", "validation_split")
        given = {x: config["data"][x] for x in splits if f"config.data.{x}" in values}
        given |= {"data_dir": values.data_dir, "resize": parse_size(values.resize)}
        fields, notes = experiments.data_of_folder(values.data, **given)
        config["data"] |= fields
        print("\n".join(notes))
    elif values.resize:
        raise ValueError("--resize is for the images of --data")
    stop = StopSignal()
    try:
        result = train(config, values.workdir, data_dir=values.data_dir, stop=stop)
    except StoppedError:
        print(f"stopped by {stop.received}; saved. Run the same command to resume.")
        return
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
    cli.define_experiment_flags("PHASE:PRESET")
    flags.DEFINE_string("data", None, "Folder of images, or .npz file, to learn from.")
    flags.DEFINE_list("resize", None, "HEIGHT,WIDTH to bring the images of --data to.")
    cli.run(main)
