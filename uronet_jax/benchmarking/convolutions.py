"""What a training step spends where: each of its convolutions alone, beside PyTorch."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.benchmarking import base, steps, timing
from uronet_jax.benchmarking.base import OURS, BenchmarkRow, BenchmarkRun
from uronet_jax.models import compute_dtype, layers

# What is computed of a convolution: its result, and its gradients.
PARTS = ("forward", "gradient by input", "gradient by kernel")
REST = "all else"


class Convolution(NamedTuple):
    """A convolution of a network.

    Attributes:
        transposed: Whether it doubles the size, see `layers.upsample_conv`.
        shape: Of its input: height, width, channels.
        size: Kernel side.
        features: Output channels.
        strides: Along height and width.
        first: Whether it sees the images, by which a step takes no gradient.
    """

    transposed: bool
    shape: tuple[int, int, int]
    size: int
    features: int
    strides: int
    first: bool

    @property
    def name(self) -> str:
        """What rows call it."""
        height, width, inputs = self.shape
        kind = " transposed" if self.transposed else ""
        strided = f", stride {self.strides}" if self.strides > 1 else ""
        return (
            f"{self.size}x{self.size}{kind} {inputs} to {self.features} at "
            f"{height}x{width}{strided}"
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of `PARTS` that a training step computes."""
        return tuple(x for x in PARTS if not (self.first and x == PARTS[1]))

    @property
    def padding(self) -> int:
        """On each side of its input."""
        return self.size // 2

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolves `[B, H, W, I]` with `[size, size, I, O]`."""
        if self.transposed:
            return layers.upsample_conv(x, kernel)
        padding = ((self.padding,) * 2,) * 2
        return layers.conv(x, kernel, strides=self.strides, padding=padding)

    def compute(self, part: str) -> Callable[..., jax.Array]:
        """Returns the jitted `(x, kernel, gradient of the result) -> part`."""

        def found(x, kernel, gradient):
            if part == PARTS[0]:
                return self.apply(x, kernel)
            _, vjp = jax.vjp(self.apply, x, kernel)
            return vjp(gradient)[PARTS.index(part) - 1]

        return jax.jit(found)


def list_convolutions(
    module: nn.Module, image_shape: tuple[int, int, int]
) -> collections.Counter[Convolution]:
    """Counts the convolutions of a network on images `(H, W, C)`, in their order."""
    found: collections.Counter[Convolution] = collections.Counter()

    def note(call, args, kwargs, context):
        layer = context.module
        if context.method_name == "__call__":
            if isinstance(layer, layers.Conv | layers.UpsampleConv):
                up = isinstance(layer, layers.UpsampleConv)
                size, strides = (3, 1) if up else (layer.size, layer.strides)
                shape = args[0].shape[1:]
                first = not found
                found[Convolution(up, shape, size, layer.features, strides, first)] += 1
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return found


def convolutions_row(run: BenchmarkRun, name: str) -> BenchmarkRow:
    """The step of `steps.WORKS[name]`, and each of its convolutions, beside the peer.

    What is left of the step's time without its convolutions is everything else:
    activations, norms, pooling, losses, the optimizer.
    """
    sizes, peer, work = run.sizes, run.peer, steps.WORKS[name](run.sizes)
    counts = list_convolutions(work.module, sizes.image_shape)
    names = [OURS] if peer is None else [OURS, peer.name]
    contestants, agreement = {}, {}
    for convolution in counts:
        arrays = _arrays(convolution, sizes.batch_size, sizes.dtype)
        for part in convolution.parts:
            label = f"{convolution.name}: {part}"
            compute = convolution.compute(part)
            contestants[_key(OURS, label)] = _repeated(compute, arrays)
            if peer is not None:
                theirs, result = peer.convolution(
                    convolution, PARTS.index(part), arrays
                )
                contestants[_key(peer.name, label)] = theirs
                # In bfloat16 each rounds otherwise.
                if sizes.dtype == "float32":
                    agreement[label] = steps.agree(compute(*arrays), result())
    count = sizes.steps_per_sample
    stepping = steps.run_over(work.step, work.state, work.frozen, work.batches, count)
    contestants[_key(OURS, "step")] = stepping
    if peer is not None:
        contestants[_key(peer.name, "step")] = peer.steps(work, count)
    seconds = timing.interleave(contestants, repeats=sizes.repeats)
    values = {}
    for who in names:
        whole = [x / count for x in seconds[_key(who, "step")]]
        seconds |= {
            _key(who, k): x for k, x in _sums(seconds, counts, who, whole).items()
        }
        for part in (*PARTS, REST):
            share = np.divide(seconds[_key(who, part)], whole)
            values[f"share of the step of {who}: {part}"] = float(np.median(share))
    labels = [f"{x.name}: {part}" for x in counts for part in x.parts]
    return base.new_row(
        f"one training step of {name} ({sizes.dtype}, batch {sizes.batch_size}), and "
        "each of its convolutions alone, from memory to memory; sums have each as "
        "often as the step does",
        seconds,
        [
            base.comparison(
                seconds, _key(OURS, x), _key(theirs, x), agreement=agreement.get(x)
            )
            for theirs in names[1:]
            for x in (*labels, *PARTS, "step")
        ],
        values=values,
    )


def _key(who: str, what: str) -> str:
    return f"{who}, {what}"


def _arrays(convolution: Convolution, batch: int, dtype: str) -> tuple[jax.Array, ...]:
    """Returns an input, a kernel and a gradient of the result."""
    rng = np.random.default_rng(0)
    x = rng.random((batch, *convolution.shape), np.float32)
    inputs, size = convolution.shape[-1], convolution.size
    kernel = rng.standard_normal((size, size, inputs, convolution.features), np.float32)
    given = [jnp.asarray(a, compute_dtype(dtype)) for a in (x, kernel)]
    result = jax.eval_shape(convolution.apply, *given)
    gradient = jnp.asarray(rng.standard_normal(result.shape, np.float32), result.dtype)
    return *given, gradient


def _repeated(compute: Callable, arrays: Sequence[jax.Array]) -> Callable[[], None]:
    return lambda: jax.block_until_ready(compute(*arrays))


def _sums(
    seconds: Mapping[str, Sequence[float]],
    counts: Mapping[Convolution, int],
    who: str,
    whole: Sequence[float],
) -> dict[str, list[float]]:
    """Returns the seconds of each part in a step, and of the rest, of every round."""
    found = {}
    for part in PARTS:
        of_each = [
            n * np.asarray(seconds[_key(who, f"{convolution.name}: {part}")])
            for convolution, n in counts.items()
            if part in convolution.parts
        ]
        found[part] = np.sum(of_each, axis=0).tolist()
    found[REST] = np.subtract(whole, np.sum([*found.values()], axis=0)).tolist()
    return found
