"""The remover of the paper out of linen's own layers: what one writes first.

The same function of the same weights as `models.Remover`; the benchmark shows what the
layers of `models.layers` save.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.benchmarking.steps import (
    Batches,
    TrainingWork,
    Variables,
    run_over,
    separation_gradients,
    separation_step,
)
from uronet_jax.models import Remover, Separation


class LinenRemover(NamedTuple):
    """Separates images, of sides that halve evenly, with the weights of a `Remover`."""

    dtype: Any = jnp.float32  # Of the computation; the rest is float32.

    def apply(self, variables: Variables, images: jax.Array) -> Separation:
        """See `Remover`."""
        params, x = variables["params"], images
        for i in range(len(params["encoder"])):
            x = self._conv(params["encoder"], i, x)
            if i % 2:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        clean, noise = (
            self._decode(params[name], x) for name in ("clean_decoder", "noise_decoder")
        )
        return Separation(clean, 2.0 * noise - 1.0)

    def _decode(self, params, x):
        last = len(params) // 2
        for i in range(last):
            x = self._conv(params, i, self._upsample(params, i, x))
        x = self._conv(params, last, x, lambda x: x)
        return nn.sigmoid(x.astype(jnp.float32))

    def _conv(self, params, i, x, activation=nn.relu):
        params = params[f"Conv_{i}"]
        layer = nn.Conv(params["bias"].size, (3, 3), dtype=self.dtype)
        return activation(layer.apply({"params": params}, x))

    def _upsample(self, params, i, x):
        params, padding = params[f"UpsampleConv_{i}"], ((1, 2), (1, 2))
        # Linen's transposed convolution takes its kernel turned by half a turn.
        turned = params | {"kernel": params["kernel"][::-1, ::-1]}
        layer = nn.ConvTranspose(
            params["bias"].size, (3, 3), (2, 2), padding=padding, dtype=self.dtype
        )
        return nn.relu(layer.apply({"params": turned}, x))


class LinenPeer:
    """`LinenRemover` as a `TrainingPeer`, of removers only."""

    name = "naive linen"

    def steps(self, work: TrainingWork, count: int) -> Callable[[], None]:
        """See `TrainingPeer`."""
        step = separation_step(LinenRemover(work.module.dtype))
        return run_over(step, work.state, {}, work.batches, count)

    def gradients(self, module: Remover, variables: Variables, batch: Batches) -> Any:
        """See `TrainingPeer`."""
        del module
        return separation_gradients(
            LinenRemover(jnp.float64), variables["params"], batch
        )
