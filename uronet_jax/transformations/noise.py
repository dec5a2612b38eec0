"""Random noise before a classifier."""

import jax
import jax.numpy as jnp

from uronet_jax.batches import per_image
from uronet_jax.transformations.transformation import Transformation


def add_gaussian_noise(
    images: jax.Array, key: jax.Array, index: jax.Array, *, scale: float
) -> jax.Array:
    """Adds Gaussian noise of standard deviation `scale` and clips to `[0, 1]`."""
    count = images[0].size
    noise = per_image(lambda k: jax.random.normal(k, (count,), jnp.float32), key, index)
    return jnp.clip(images + scale * noise.reshape(images.shape), 0.0, 1.0)


GAUSSIAN_NOISE = Transformation(
    add_gaussian_noise,
    {"scale": 0.1},
    {"scale": (0.0, 1.0)},
    "x + N(0, scale), another draw at every look",
    "Cohen et al., ICML 2019 (the noise of randomised smoothing, without its vote)",
    random=True,
)
