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


def rescale_by_sorting(images, noise, epsilon):
    """Clipping-aware rescaling as it is published: breakpoints, sorted; in float64."""
    images, noise = (np.asarray(x, np.float64) for x in (images, noise))
    budgets = np.broadcast_to(np.asarray(epsilon, np.float64), len(images))
    found = []
    for x, delta, budget in zip(images, noise, budgets, strict=True):
        room = np.where(delta >= 0, 1 - x, x)
        breaks = (room**2 / np.maximum(delta**2, 1e-20)).ravel()
        order = np.argsort(breaks)
        breaks = breaks[order]
        slopes = np.cumsum(delta.ravel()[order][::-1] ** 2)[::-1]
        reached = np.cumsum(slopes * np.diff(breaks, prepend=0.0))
        squared = breaks[-1]
        if (reached >= budget**2).any():
            j = np.argmax(reached >= budget**2)
            squared = breaks[j] - (reached[j] - budget**2) / slopes[j]
        found.append(np.clip(x + np.sqrt(squared) * delta, 0, 1))
    return np.stack(found)
