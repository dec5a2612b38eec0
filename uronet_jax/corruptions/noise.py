"""Noise corruptions: one uniform draw per element, one compiled program for all.

Every noise here is a deterministic function of the image and of one uniform number
per element (Gaussian and Poisson noise by inversion). A batch in which each image has
its own kind of noise therefore costs a single draw, and `degrade` selects the kind
inside jit: one compiled program serves every kind and every severity.

The uniforms of image `i` come from `fold_in(key, index[i])`, where `index` is the
global number of the image, so the result does not depend on the batch size, the
order of the images or the number of devices.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from uronet_jax import batches
from uronet_jax.corruptions.operation import Operation, one_number

Core = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Poisson counts: means from here on are searched from the mode, smaller ones from 0.
_MODE_SEARCH = 10.0
# A search ends where one count has less probability than this, an eighth of the
# resolution 2^-23 of a float32 uniform.
_NEGLIGIBLE = 2.0**-26
# Search steps per loop iteration: enough to amortise memory traffic, quick to compile.
# An accelerator asks the host after each iteration whether another one follows.
_UNROLL, _UNROLL_ACCELERATOR = 4, 16
# Elements that a CPU searches at a time: their arrays fit its second-level cache.
_CHUNK = 16_384
# Contrast of the photographs of Geirhos et al. 2018.
_LOW_CONTRAST = 0.3


def uniform_draw(
    key: jax.Array, shape: Sequence[int], index: jax.Array | None = None
) -> jax.Array:
    """Returns the random numbers behind every noise of this module.

    Args:
        key: Typed PRNG key. One key serves the whole batch.
        shape: `(B, H, W, C)`.
        index: Integer `[B]`, the global number (0 or more) of each image; its
            numbers come from `fold_in(key, index[i])`. Default: `0 .. B-1`.

    Returns:
        float32 `[B, H, W, C]`, uniform in `[0, 1)`, multiples of `2^-23`.
    """
    index = jnp.arange(shape[0]) if index is None else index
    draw = functools.partial(
        jax.random.uniform, shape=(math.prod(shape[1:]),), dtype=jnp.float32
    )
    uniform = batches.per_image(draw, key, index)
    return uniform.reshape(index.shape[0], *shape[1:])


def _signed(uniform):
    # Odd multiples of 2^-23: symmetric about 0, and never 1, whose erfinv is infinite.
    return 2.0 * uniform - (1.0 - 2.0**-23)


def _normal(uniform):
    return math.sqrt(2.0) * jax.lax.erf_inv(_signed(uniform))


def add_gaussian(images: jax.Array, noise: jax.Array) -> jax.Array:
    """Does what `gaussian_noise` does, before clipping, for noise of `N(0, scale)`."""
    return images + noise


def add_speckle(images: jax.Array, noise: jax.Array) -> jax.Array:
    """Does what `speckle_noise` does, before clipping, for noise of `N(0, scale)`."""
    return images + images * noise


def from_counts(counts: jax.Array, rate: jax.Array) -> jax.Array:
    """Does what `shot_noise` does, before clipping, for counts of photons."""
    # The rate is 0 only where `degrade` discards the result.
    return counts / jnp.maximum(rate, 1e-6)


def _uniform(
    uniform, images, half_width, *, shared_channels=False, positive=False, contrast=1.0
):
    batches.check_number("contrast", contrast, 0.0, 1.0)
    uniform = uniform[..., :1] if shared_channels else uniform
    noise = half_width * (uniform if positive else _signed(uniform))
    return (1.0 - contrast) / 2.0 + contrast * images + noise


def _salt_and_pepper(uniform, images, amount, *, per_channel=False):
    uniform = uniform if per_channel else uniform[..., :1]
    salted = jnp.where(uniform >= 1.0 - amount / 2.0, 1.0, images)
    return jnp.where(uniform < amount / 2.0, 0.0, salted)


def _shot(uniform, images, rate):
    mean = jnp.clip(images, 0.0, 1.0) * rate
    return from_counts(poisson_quantile(uniform, mean, jnp.max(rate)), rate)


_impulse = functools.partial(_salt_and_pepper, per_channel=True)

# What `degrade` can select. Maps `(uniform, images, parameter)` to images that are not
# yet clipped to [0, 1]. The order is the meaning of `Degradation.kind`.
NOISES: dict[str, Core] = {
    "identity": lambda uniform, images, parameter: images,
    "gaussian_noise": lambda u, images, scale: add_gaussian(images, scale * _normal(u)),
    "shot_noise": _shot,
    "impulse_noise": _impulse,
    "speckle_noise": lambda u, images, scale: add_speckle(images, scale * _normal(u)),
    "salt_and_pepper_noise": _salt_and_pepper,
    "salt_and_pepper_noise_per_channel": _impulse,
    "uniform_noise": _uniform,
    "uniform_noise_shared": functools.partial(_uniform, shared_channels=True),
    "uniform_noise_positive": functools.partial(_uniform, positive=True),
    "uniform_noise_low_contrast": functools.partial(_uniform, contrast=_LOW_CONTRAST),
}
_SHOT = list(NOISES).index("shot_noise")
# Kind of noise -> its parameter and the range of that.
_PARAMETERS = {
    "gaussian": ("scale", 0.0, math.inf),
    "shot": ("rate", 1e-3, 1e6),  # Counts above 2^24 are not exact in float32.
    "impulse": ("amount", 0.0, 1.0),
    "speckle": ("scale", 0.0, math.inf),
    "salt_and_pepper": ("amount", 0.0, 1.0),
    "uniform": ("half_width", 0.0, math.inf),
}


@struct.dataclass
class Degradation:
    """What a step does to its images; select inside jit with `degrade`.

    Attributes:
        kind: int32, position of the noise in `NOISES`. Scalar: one noise for all
            images. `[N]`: a mix, of which each image draws one entry uniformly.
        parameter: float32, same shape: scale, half-width, amount or rate. Of a scalar
            kind it may be `[N]` too: each image draws one strength.
    """

    kind: jax.Array
    parameter: jax.Array


def make_degradation(entries: Sequence[tuple[str, float]]) -> Degradation:
    """Builds a `Degradation` from `(name in NOISES, parameter)` pairs.

    One pair gives scalars, several a mix, arrays `[N]`; of one noise in several
    strengths the kind stays a scalar, so that no other noise is computed. The parameter
    of `"identity"` is ignored.

    Raises:
        ValueError: If there is no entry, a name is unknown, or a parameter is out of
            the range of its noise.
    """
    if not entries:
        raise ValueError("a degradation needs at least one (name, parameter) entry")
    names = list(NOISES)
    for entry in entries:
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise ValueError(
                "a degradation is made of entries (name, parameter), such as "
                f"[('gaussian_noise', 0.1)]: found {entry!r}"
            )
        name, value = entry
        batches.known_name("noise", name, NOISES)
        if name != "identity":
            parameter, *ends = _PARAMETERS[name.split("_noise")[0]]
            batches.check_range(parameter, value, *ends)
    kind = jnp.asarray([names.index(name) for name, _ in entries], jnp.int32)
    parameter = jnp.asarray([value for _, value in entries], jnp.float32)
    if len({name for name, _ in entries}) == 1:
        kind = kind[0]
    if len(entries) == 1:
        parameter = parameter[0]
    return Degradation(kind, parameter)


def choose_entries(
    key: jax.Array, degradation: Degradation, index: jax.Array
) -> jax.Array:
    """Returns int32 `[B]`: the entry of a mix that `degrade` takes for each image.

    The arguments are those of `degrade`. A fixed noise has one entry, number 0.
    """
    entries = degradation.parameter.size
    # Images use fold_in(key, index >= 0), so the largest word is a stream of its own.
    key = jax.random.fold_in(key, np.uint32(2**32 - 1))

    def choose(i):
        return jax.random.randint(jax.random.fold_in(key, i), (), 0, entries, jnp.int32)

    return jax.vmap(choose)(index)


def degrade(
    key: jax.Array,
    images: jax.Array,
    degradation: Degradation,
    index: jax.Array | None = None,
    *,
    clip: bool = True,
) -> jax.Array:
    """Degrades a batch with a noise that is chosen inside jit.

    For the same key and index, an image gets exactly the noise that the public
    function of its kind (`gaussian_noise`, ...) would give it.

    Args:
        key: Typed PRNG key. One key serves the whole batch.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`.
        degradation: A fixed noise (only its branch runs), or a mix: each image takes
            the entry given by `choose_entries`. Its values may be traced.
        index: Integer `[B]`, global number of each image. Default: `0 .. B-1`.
        clip: Static. False leaves the images as the noise makes them, also outside
            `[0, 1]`, as randomised smoothing needs them.

    Returns:
        Degraded images, same shape and dtype, in `[0, 1]`, differentiable as far as
        the selected noise is.

    Raises:
        ValueError: If `images` is not a non-empty batch of floating-point images, or
            the shapes of `degradation` do not fit each other.
    """
    batches.check_key(key)
    batches.check_images(images, index)
    if not isinstance(degradation, Degradation):
        raise ValueError(
            f"degradation must be what make_degradation returns: {degradation!r}"
        )
    kind, parameter = degradation.kind, degradation.parameter
    if kind.shape not in ((), parameter.shape) or parameter.ndim > 1:
        raise ValueError(
            "kind and parameter of a degradation must both be scalar or both [N], or "
            f"of one kind parameters [N]: {kind.shape} and {parameter.shape}; build it "
            "with make_degradation"
        )
    index = jnp.arange(images.shape[0]) if index is None else index
    cores = list(NOISES.values())

    entry = None
    if parameter.ndim:
        entry = choose_entries(key, degradation, index)[:, None, None, None]
        parameter = parameter[entry]
    if kind.ndim == 0:

        def select(uniform, images, parameter):
            return jax.lax.switch(kind, cores, uniform, images, parameter)

        return _render(select, key, images, parameter, index, clip)

    kind = kind[entry]

    def select_per_image(uniform, images, parameter):
        # In images of another kind a rate of 0 ends the Poisson search at once: their
        # parameters are no rates, and would lengthen the search of all.
        rate = jnp.where(kind == _SHOT, parameter, 0.0)
        outputs = [
            core(uniform, images, rate if i == _SHOT else parameter)
            for i, core in enumerate(cores)
        ]
        return jnp.select([kind == i for i in range(len(cores))], outputs)

    return _render(select_per_image, key, images, parameter, index, clip)


@jax.jit  # A loop is traced anew at every call outside jit.
def poisson_quantile(
    uniform: jax.Array, mean: jax.Array, largest_mean: jax.Array
) -> jax.Array:
    """Inverts the Poisson distribution: smallest counts with P(<= count) >= uniform.

    The search walks from the mode (from 0 for small means), where probability and
    distribution function are known in closed form, up or down along the recurrence
    `p(k+1) = p(k) mean / (k+1)`. Errors of float32 move a step of the distribution
    function by less than 1e-6 for means up to 10,000. The gradient is zero.

    Args:
        uniform: float32, in `[0, 1)`, a multiple of `2^-23`.
        mean: float32, same shape, 0 or more.
        largest_mean: Scalar, at least `max(mean)`; it sets the number of steps and
            nothing else, so that a result does not depend on its neighbours.

    Source:
        Temme's uniform expansion of the incomplete gamma function, DLMF 8.12(i), with
        the coefficients of DiDonato & Morris, ACM TOMS 12 (1986).
    """
    mean, largest_mean = jax.lax.stop_gradient((mean, largest_mean))
    steps = _poisson_steps(largest_mean)
    search = functools.partial(_search_poisson, steps, unroll=_UNROLL)
    # Whether any search goes on is a question to all devices, in every iteration.
    search_to_the_end = functools.partial(
        _search_poisson, steps, unroll=_UNROLL_ACCELERATOR, stops_early=False
    )

    def search_by_chunk(uniform, mean):
        # The loop is bound by memory on a CPU unless its arrays stay in the cache.
        padding = -uniform.size % _CHUNK
        flat = [
            jnp.pad(x.ravel(), (0, padding)).reshape(-1, _CHUNK)
            for x in (uniform, mean)
        ]
        counts = jax.lax.map(lambda chunk: search(*chunk), flat)
        return counts.ravel()[: uniform.size].reshape(uniform.shape)

    return jax.lax.platform_dependent(
        uniform,
        mean,
        cpu=search if uniform.size <= _CHUNK else search_by_chunk,
        default=search_to_the_end,
    )


def _search_poisson(steps, uniform, mean, *, unroll, stops_early=True):
    blocks = jnp.ceil(steps / unroll).astype(jnp.int32)
    mode, probability, below = _poisson_start(mean)
    up = uniform > below
    # What is left to walk: positive while the answer lies beyond the current count,
    # afterwards minus the number of steps taken.
    left = jnp.where(up, uniform - below, below - probability - uniform)
    left = jnp.maximum(left, 0.0)
    safe_mean = jnp.maximum(mean, 1e-30)

    def walk(state):
        block, probability, left = state
        for i in range(unroll):
            step = (block * unroll + i).astype(jnp.float32)
            probability *= jnp.where(up, safe_mean, mode - step) / jnp.where(
                up, mode + step + 1.0, safe_mean
            )
            rest = left - probability
            # Rounding can leave a rest that no remaining count would ever use up.
            onward = (rest > 0.0) & (probability > _NEGLIGIBLE)
            left = jnp.where(left > 0.0, jnp.where(onward, rest, -(step + 1.0)), left)
        return block + 1, probability, left

    def is_searching(state):
        block, _, left = state
        within = block < blocks
        return within & jnp.any(left > 0.0) if stops_early else within

    start = jnp.int32(0), probability, left
    _, _, left = jax.lax.while_loop(is_searching, walk, start)
    return jnp.maximum(jnp.where(up, mode - left, mode + left), 0.0)


def _poisson_steps(mean):
    # From mode (or 0) to the last count of probability 2^-26, for all means up to this.
    root = jnp.sqrt(mean)
    from_zero = jnp.minimum(mean, _MODE_SEARCH) + 6.0 * jnp.minimum(root, 3.2) + 6.0
    return jnp.maximum(from_zero, 5.6 * root + 8.0)


def _poisson_start(mean):
    """Returns (count, its probability, its distribution function) to search from."""
    from_mode = mean >= _MODE_SEARCH
    x = jnp.where(from_mode, mean, _MODE_SEARCH)
    mode = jnp.floor(x)
    # P(count <= mode) = Q(a, x), the regularised incomplete gamma function. Its
    # uniform expansion needs few terms here because x / a is within 1 / a of 1.
    a = mode + 1.0
    r = 1.0 / a
    u = (x - a) * r
    # eta^2 / 2 = u - log(1 + u), as a series because the difference would cancel.
    eta = u * (1 + u * (-1 / 3 + u * (7 / 36 + u * (-73 / 540 + u * 1331 / 12960))))
    gauss = jnp.exp(-0.5 * a * eta * eta) * jax.lax.rsqrt(2.0 * math.pi * a)
    c0 = -1 / 3 + eta * (1 / 12 + eta * (-2 / 135 + eta / 864))
    c1 = -1 / 540 - eta / 288
    below = 0.5 * jax.lax.erfc(eta * jnp.sqrt(0.5 * a)) + gauss * (
        c0 + r * (c1 + r * 25 / 6048)
    )
    stirling = 1 + r * (1 / 12 + r * (1 / 288 - r * 139 / 51840))
    probability = gauss * a / (x * stirling)
    at_zero = jnp.exp(-mean)
    return (
        jnp.where(from_mode, mode, 0.0),
        jnp.where(from_mode, probability, at_zero),
        jnp.where(from_mode, below, at_zero),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Noise(Operation):
    """A noise: called directly, its parameter may be traced or differ by image."""

    core: Core
    parameter: tuple[str, float, float]

    def __call__(self, key, images, *, index=None, **parameters):
        setting, options = self.split(parameters)
        self.check_complete(setting)
        images = jnp.asarray(images)  # Without x64 a float64 array becomes float32.
        index = None if index is None else jnp.asarray(index)
        batches.check_key(key)
        batches.check_images(images, index)
        name, *ends = self.parameter
        if not isinstance(setting[name], Tracer):
            batches.check_range(name, setting[name], *ends)
        parameter = jnp.asarray(setting[name], jnp.float32)
        if parameter.shape not in ((), (images.shape[0], 1, 1, 1)):
            raise ValueError(
                f"{name} must be a scalar or [B, 1, 1, 1] for {images.shape[0]} "
                f"images: {parameter.shape}"
            )
        core = functools.partial(self.core, **options)
        return _render(core, key, images, parameter, index)


def _render(core, key, images, parameter, index, clip=True):
    uniform = uniform_draw(key, images.shape, index)
    noisy = core(uniform, images.astype(jnp.float32), parameter)
    noisy = jnp.clip(noisy, 0.0, 1.0) if clip else noisy
    return noisy.astype(images.dtype)


def _noise(kind: str, text: str, **entry) -> _Noise:
    core, described = NOISES[f"{kind}_noise"], _PARAMETERS[kind]

    def apply(key, images, parameter, shared, index, **options):
        uniform = uniform_draw(key, images.shape, index)
        return core(uniform, images, parameter, **options)

    entry |= {"core": core, "parameter": described, "smallest_side": 1}
    return _Noise(text, one_number(*described), apply, **entry)


gaussian_noise = _noise(
    "gaussian",
    """Adds normal noise, independent over pixels and channels: `clip(x + N(0, scale))`.

    Differentiable in `images` and `scale`.

    Parameters:
        scale: Standard deviation, 0 or more, in units of the intensity range.
    """,
    formula="x + N(0, scale)",
    source="HD",
    example={"scale": 0.1},
)
shot_noise = _noise(
    "shot",
    """Counts photons: `clip(Poisson(rate * x) / rate)`, independent over elements.

    Counts are integers: the gradient with respect to `images` is zero everywhere (not
    straight-through).

    Parameters:
        rate: Expected count of a white element, above 0; smaller is noisier. The
            cost grows with the square root of the largest rate.
    """,
    formula="Poisson(rate x) / rate",
    source="HD",
    example={"rate": 25.0},
)
impulse_noise = _noise(
    "impulse",
    """Sets random elements to 0 or 1, each with probability `amount / 2`.

    Each channel of each pixel is hit independently: a pixel can lose one channel. This
    is `skimage.util.random_noise(mode="s&p", amount=amount, salt_vs_pepper=0.5)`.
    Gradients pass through the untouched elements; they are zero at the hits and with
    respect to `amount`.

    Args:
        amount: Expected fraction of replaced elements, in `[0, 1]`.
    """,
    formula="each element becomes 0 or 1, with probability amount / 2 each",
    source="HD",
    example={"amount": 0.1},
)
speckle_noise = _noise(
    "speckle",
    """Adds noise in proportion to the intensity: `clip(x + x * N(0, scale))`.

    Differentiable in `images` and `scale`.

    Parameters:
        scale: Standard deviation at intensity 1, 0 or more.
    """,
    formula="x + x N(0, scale)",
    source="HD",
    example={"scale": 0.2},
)
uniform_noise = _noise(
    "uniform",
    """Adds uniform noise: `clip(x + U(-half_width, half_width))`.

    The URoNet paper names this noise without defining it, hence the switches, which are
    static. Differentiable in `images` and `half_width`.

    Parameters:
        half_width: Largest absolute noise, 0 or more.
        shared_channels: Draw once per pixel and add the same value to all channels
            (grey noise). Default: once per element.
        positive: Draw from `U(0, half_width)` instead.
        contrast: In `[0, 1]`. Below 1, images are first scaled about mid-grey:
            `(1 - contrast) / 2 + contrast * x`; Geirhos et al., "Generalisation in
            humans and deep neural networks", NeurIPS 2018, use 0.3.
    """,
    formula="x + U(-half_width, half_width)",
    source="U",
    example={"half_width": 0.3},
    options=("shared_channels", "positive", "contrast"),
)
salt_and_pepper_noise = _noise(
    "salt_and_pepper",
    """Sets random pixels to black or white, each with probability `amount / 2`.

    The colour analogue of the noise of Geirhos et al., NeurIPS 2018. Gradients pass
    through the untouched pixels; they are zero at the hits and with respect to
    `amount`.

    Parameters:
        amount: Expected fraction of replaced pixels, in `[0, 1]`.
        per_channel: Hit each channel of a pixel independently, as `impulse_noise`
            does. Static. Default: all channels of a pixel together.
    """,
    formula="each pixel becomes black or white, with probability amount / 2 each",
    source="U",
    example={"amount": 0.3},
    options=("per_channel",),
)
