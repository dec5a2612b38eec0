"""What cannot be trained, and the one error, before any work; configs: tests/launch."""

import math

import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from test_adversarial_noise import STEPS
from test_adversarial_noise import make_task as noise_task
from test_reconstructive_training import make_task as reconstructive_task

from uronet_jax import sharding
from uronet_jax.models import Separation, make_noise_generator
from uronet_jax.training import pairs
from uronet_jax.training.adversarial_noise import batch_parts
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.phases import find_phase
from uronet_jax.training.remover import remover_task
from uronet_jax.training.run import Schedule


class Grey(nn.Module):
    """A remover without a head for noise."""

    noise_head: bool = False

    @nn.compact
    def __call__(self, images):
        return Separation(jnp.full_like(images, 0.5), jnp.zeros_like(images))


def losses(**weights):
    plain = pairs.clean_pairs()
    remover_task(Grey(), optax.sgd(1.0), plain, image_shape=(8, 8, 1), losses=weights)


def optimizer(name="adam", **changes):
    make_optimizer(name, **{"peak_rate": 0.1, "num_steps": 10} | changes)


def schedule(**changes):
    Schedule(**{"batch_size": 4, "num_steps": 4} | changes).check()


def shares(**changes):
    usual = {"noise": 0.25, "replay": 0.25, "degraded": 0.0, "replay_slices": 2}
    batch_parts(20, **usual | changes)


def test_a_batch_size_that_is_right():
    batch_size(8)


def batch_size(size):
    sharding.check_batch_size(size, sharding.data_mesh())


ROWS = [
    # Losses.
    (
        "a loss",
        lambda: losses(ssim=1.0),
        "unknown loss 'ssim': choose from clean_mse, noise_mse, inconsistency, instab",
    ),
    (
        "negative",
        lambda: losses(clean_mse=-1.0),
        r"loss.clean_mse must be .* in \[0, inf\): -1.0",
    ),
    (
        "NaN",
        lambda: losses(clean_mse=math.nan),
        "loss.clean_mse must be a finite number.*nan",
    ),
    (
        "no weight",
        lambda: losses(clean_mse=0.0),
        "needs a weight above 0: {'clean_mse': 0.0}",
    ),
    ("no loss", lambda: losses(), "needs a weight above 0"),
    # Its validation, which asks no classifier, could not tell states apart.
    ("no picture", lambda: losses(inconsistency=1.0), "needs a weight above 0"),
    (
        "no classifier",
        lambda: losses(clean_mse=1.0, inconsistency=0.5),
        "needs a frozen classifier: give one",
    ),
    # There is no head to learn the noise.
    ("no head", lambda: losses(noise_mse=1.0), "needs a weight above 0"),
    # Optimizers and schedules.
    ("an optimizer", lambda: optimizer("lamb"), "unknown optimizer 'lamb'.*adam"),
    (
        "a capital",
        lambda: optimizer("Adam"),
        "unknown optimizer 'Adam' .nearest: 'adam'",
    ),
    (
        "a schedule",
        lambda: optimizer(schedule="linear"),
        "unknown schedule 'linear'.*cosine",
    ),
    (
        "no rate",
        lambda: optimizer(peak_rate=0.0),
        r"peak_rate must be a finite number in \(0, inf\): 0.0",
    ),
    (
        "a rate",
        lambda: optimizer(peak_rate=math.nan),
        r"peak_rate must be a finite number in \(0, inf\): nan",
    ),
    (
        "infinite",
        lambda: optimizer(peak_rate=math.inf),
        r"peak_rate must be a finite number in \(0, inf\): inf",
    ),
    (
        "late",
        lambda: optimizer(warmup_steps=11),
        r"warmup_steps, within num_steps \(10\), must be an integer in \[0, 10\]: 11",
    ),
    (
        "early",
        lambda: optimizer(warmup_steps=-1),
        r"warmup_steps, within num_steps \(10\), must be an integer in \[0, 10\]: -1",
    ),
    (
        "half",
        lambda: optimizer(warmup_steps=0.5),
        r"warmup_steps, .* integer in \[0, 10\]: 0.5",
    ),
    (
        "decay",
        lambda: optimizer(weight_decay=-0.1),
        r"weight_decay must be a finite number in \[0, inf\): -0.1",
    ),
    (
        "norm",
        lambda: optimizer(clip_norm=-1.0),
        r"clip_norm must be a finite number in \[0, inf\): -1.0",
    ),
    ("of Adam", lambda: optimizer(weight_decay=0.1), "under adam is not L2"),
    (
        "momentum",
        lambda: optimizer("sgd", momentum=2.0),
        r"momentum must be .* in \[0, 1\]: 2.0",
    ),
    (
        "no step",
        lambda: schedule(num_steps=0),
        r"num_steps must be an integer in \[1, .*: 0",
    ),
    (
        "half a step",
        lambda: schedule(log_every=2.5),
        r"log_every must be an integer in \[1, .*: 2.5",
    ),
    (
        "never",
        lambda: schedule(eval_every=-1),
        r"eval_every must be an integer in \[0, .*: -1",
    ),
    # Shares and sizes.
    *(
        (
            f"a share: {x}",
            lambda x=x: pairs.stored_pairs(clean_share=x),
            rf"clean_share must be .* in \[0, 1\]: {x!r}$",
        )
        for x in (-0.1, 1.5, math.nan, True, "0.1")
    ),
    (
        "too much",
        lambda: shares(noise=0.9),
        "add up to 1.15: at most 1, what is left over is clean",
    ),
    (
        "less than 0",
        lambda: shares(noise=-0.1),
        r"shares.noise must be .* in \[0, 1\]: -0.1",
    ),
    ("no image", lambda: shares(replay=0.01), "of a batch of 20 is no image"),
    *(
        (f"a batch: {x}", lambda x=x: batch_size(x), f"size {x} cannot.*multiple of 4")
        for x in (0, -4, 3, 6, 4.0)
    ),
    (
        "a phase",
        lambda: find_phase("remove"),
        "unknown phase 'remove' .nearest: 'remover'.: choose from remover, detector",
    ),
    # Adversarial noise.
    (
        "no restart",
        lambda: noise_task(restart_every=0, restart_steps=0),
        "set noise.restart_every, or the",
    ),
    ("none", lambda: noise_task(restart_every=0, replay=0.0), "with 0 there is none"),
    (
        "no update",
        lambda: noise_task(restart_steps=STEPS),
        "before the classifier's first update",
    ),
    (
        "white",
        lambda: noise_task(epsilon=8.1),
        r"epsilon, .* the L2 norm from black to white of .*8x8x1, .* \(0, 8\]: 8.1",
    ),
    ("no noise", lambda: noise_task(epsilon=0.0), r"epsilon, at most .* \(0, 8\]: 0.0"),
    (
        "7x7",
        lambda: noise_task(generator="7x7"),
        "unknown noise generator '7x7': choose from 1x1, 3x3",
    ),
    (
        "2x2",
        lambda: make_noise_generator("2x2"),
        "unknown noise generator '2x2': choose from 1x1, 3x3",
    ),
    # Reconstructive training.
    *(
        (
            f"{name}={wrong}",
            lambda x={name: wrong}: reconstructive_task(**x),
            message,
        )
        for name, wrong, message in (
            ("warmup_steps", -1, r"warmup_steps must be an integer in \[0, .*: -1"),
            ("warmup_steps", 1.5, r"warmup_steps must be an integer in \[0, .*: 1.5"),
            (
                "visual_weight",
                -0.1,
                r"visual_weight must be a finite number in \[0, inf\): -0.1",
            ),
            (
                "class_weight",
                math.nan,
                r"class_weight must be a finite number in \[0, inf\): nan",
            ),
            (
                "labels",
                "guessed",
                "unknown .*labels 'guessed': choose from true, predictions",
            ),
            ("batch_size", 0, r"batch_size must be an integer in \[1, .*: 0"),
        )
    ),
    (
        "no weights",
        lambda: reconstructive_task(visual_weight=0.0, class_weight=0),
        "nothing would be learned",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message):
    with pytest.raises(ValueError, match=message):
        call()
