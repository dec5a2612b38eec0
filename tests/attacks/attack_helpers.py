"""What tests of attacks share."""

import jax
import jax.numpy as jnp
import numpy as np


class Recorder:
    """A loss function that keeps what it is called with."""

    def __init__(self, loss):
        self.loss, self.images = loss, []

    def __call__(self, *arguments):
        jax.debug.callback(lambda x: self.images.append(np.array(x)), arguments[-1])
        return self.loss(*arguments)

    def calls(self):
        """Returns the images of all calls since the last time, `[n, B, H, W, C]`."""
        jax.effects_barrier()
        images, self.images = self.images, []
        return np.stack(images)


def waves(speed, images):
    """A loss of each image with many local maxima; smooth."""
    flat = images.reshape(images.shape[0], -1)
    return jnp.sum(jnp.sin(flat * speed), axis=-1)


def norms(perturbations, norm):
    flat = np.asarray(perturbations, np.float64).reshape(len(perturbations), -1)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=-1)
