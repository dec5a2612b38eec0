"""The defence: purifier, detector and classifier as one function of the images.

The one place where they meet. What attackers and judges see of a defence are options
of `DefenseFunction`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from uronet_jax import batches
from uronet_jax.attacks import adaptive, balls
from uronet_jax.models import Separation, layers
from uronet_jax.purifiers import Purifier, as_purifier
from uronet_jax.specs import known_name

DETECTOR_INPUTS: dict[str, Callable[[jax.Array, Separation], list[jax.Array]]] = {
    # The paper's training paragraph: "noise-augmented images".
    "image": lambda images, separation: [images, separation.noise],
    # Its inference paragraph: the reconstruction and the noise pattern.
    "clean": lambda images, separation: [separation.clean, separation.noise],
    # Its ablation: no noise pattern.
    "image_only": lambda images, separation: [images],
}


def detector_input(
    images: jax.Array, separation: Separation, inputs: str = "image"
) -> jax.Array:
    """Lays beside each other, in the channels, what the detector looks at.

    Args:
        images: `[B, H, W, C]` in `[0, 1]`.
        separation: What the purifier made of them.
        inputs: A key of `DETECTOR_INPUTS`.

    Returns:
        `[B, H, W, 2C]`, or `[B, H, W, C]` for `image_only`.

    Raises:
        ValueError: If `inputs` is unknown.
    """
    known_name("detector input", inputs, DETECTOR_INPUTS)
    return jnp.concatenate(DETECTOR_INPUTS[inputs](images, separation), axis=-1)


def detector_channels(channels: int, inputs: str = "image") -> int:
    """Returns how many channels `detector_input` makes of `channels`."""
    image = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
    return jax.eval_shape(
        lambda x: detector_input(x, Separation(x, x), inputs), image
    ).shape[-1]


class Prediction(NamedTuple):
    """What the defence says about a batch.

    Attributes:
        logits: `[B, K]` float32, of the picture that the classifier was shown.
        degraded_probability: `[B]` in `[0, 1]`; None without a detector.
        clean: `[B, H, W, C]` in `[0, 1]`, the purified picture.
        noise: `[B, H, W, C]` in `[-1, 1]`, the signed noise pattern.
    """

    logits: jax.Array
    degraded_probability: jax.Array | None
    clean: jax.Array
    noise: jax.Array


Classify = Callable[[Any, jax.Array], jax.Array]


class Answer(NamedTuple):
    """What attackers work on: `Prediction` before it is made readable."""

    logits: jax.Array  # [B, K]
    detector_logits: jax.Array | None  # [B, 2]; None without a detector.
    separation: Separation  # What the purifier made of the images.


@dataclasses.dataclass(frozen=True)
class DefenseFunction:
    """The defence as one pure function; equal ones share compiled programs.

    Attributes:
        classify: `(variables, images) -> logits`, any classifier of images in
            `[0, 1]`; `classifier_function` makes it from a Flax module.
        purifier: See `purifiers`; None shows the classifier the images as they come.
        detector: Two-class module, class 1 is degraded; None detects nothing. It looks
            at the noise pattern and so needs a purifier.
        inputs: What the detector looks at, see `detector_input`.
        gate: With a threshold in `[0, 1]` the classifier is shown the purified picture
            only where the degraded probability is above it, and the image as it came
            elsewhere. None always purifies. Either way the classifier runs once.
        straight_through: Whether the gradient takes the purifier for the identity.
        both_ways: Whether at a gate the gradient is that of both ways, not of the one
            taken.

    Raises:
        ValueError: If there is a detector without a purifier, a gate without a
            detector, or `gate` is not in `[0, 1]`.
    """

    classify: Classify
    purifier: Purifier | None = None
    detector: nn.Module | None = None
    inputs: str = "image"
    gate: float | None = None
    straight_through: bool = False
    both_ways: bool = False

    def __post_init__(self):
        """Checks that the parts suit each other."""
        object.__setattr__(self, "purifier", as_purifier(self.purifier))
        if self.detector is not None and self.purifier is None:
            raise ValueError(
                "a detector looks at the purifier's noise pattern: give a purifier"
            )
        known_name("detector input", self.inputs, DETECTOR_INPUTS)
        if not callable(self.classify) or isinstance(self.classify, nn.Module):
            raise ValueError(
                "classify must be a function, (variables, images) -> logits, not a "
                f"{type(self.classify).__name__}: of a Flax module classifier_function "
                "makes one"
            )
        if self.gate is not None:
            batches.check_number("gate (or None)", self.gate, 0.0, 1.0)
        if self.gate is not None and self.detector is None:
            raise ValueError("a gate asks the detector: give one, or gate=None")

    def answer(
        self,
        variables: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        index: jax.Array | None = None,
    ) -> Answer:
        """Returns logits of classifier and detector, and the separation.

        Args:
            variables: `{"purifier", "detector", "classifier"}`, of those there are.
            images: `[B, H, W, C]`, float, in `[0, 1]`.
            key: Typed PRNG key, which a random purifier draws from.
            index: Integer `[B]`, the number of each image, by which they draw
                differently; `0 .. B - 1` by default.
        """
        layers.check_float_images(images)
        if key is not None:
            batches.check_key(key)
        if not isinstance(variables, Mapping) or "classifier" not in variables:
            raise ValueError(
                "variables must be a dict of classifier and, where there are such, "
                "purifier and detector"
            )
        classify = functools.partial(self.classify, variables["classifier"])
        if self.purifier is None:
            return Answer(classify(images), None, _nothing_to_remove(images))

        def separate(images):
            return self.purifier(variables.get("purifier"), images, key, index)

        if self.straight_through:
            separate = adaptive.bpda(separate, _nothing_to_remove)
        separation = separate(images)
        clean = separation.clean
        if self.detector is None:
            return Answer(classify(clean), None, separation)
        features = detector_input(images, separation, self.inputs)
        detected = self.detector.apply(variables["detector"], features, train=False)
        if self.gate is None:
            return Answer(classify(clean), detected, separation)
        purify = adaptive.degraded_probability(detected) > self.gate
        if not self.both_ways:
            shown = balls.where(purify, clean, images)
            return Answer(classify(shown), detected, separation)
        logits = adaptive.bpda(
            lambda logits: jnp.where(purify[:, None], *logits),
            lambda logits: (logits[0] + logits[1]) / 2,
        )((classify(clean), classify(images)))
        return Answer(logits, detected, separation)

    def __call__(
        self,
        variables: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        index: jax.Array | None = None,
    ) -> Prediction:
        """Returns what the defence says; arguments as for `answer`.

        Differentiable end to end, but for the decision of the gate.
        """
        logits, detected, separation = self.answer(variables, images, key, index)
        probability = None
        if detected is not None:
            probability = adaptive.degraded_probability(detected)
        return Prediction(logits, probability, *separation)


def _nothing_to_remove(images):
    return Separation(images, jnp.zeros_like(images))


def make_defense(
    purifier: Any,
    detector: nn.Module | None,
    classify: Classify,
    *,
    inputs: str = "image",
    gate: float | None = None,
) -> DefenseFunction:
    """Builds the defence as one pure function, to be jitted by the caller.

    It is `defend(variables, images, key=None, index=None) -> Prediction`; see
    `DefenseFunction`. The purifier may also be a Flax module such as `Remover`.
    """
    return DefenseFunction(classify, purifier, detector, inputs, gate)


@functools.cache  # One object for a module, so that programs are shared.
def classifier_function(classifier: nn.Module) -> Classify:
    """Returns `(variables, images) -> logits` of a Flax classifier, for inference."""
    return lambda variables, images: classifier.apply(variables, images, train=False)


def no_classifier(variables: Any, images: jax.Array) -> None:
    """The answer of no classifier, where a defence only purifies and detects."""


class Defense:
    """The defence ready for use on arrays of any length, uint8 or float.

    Compiles once for a batch size and runs every input in batches of that size; once
    more for each power of two below it that fewer images need.

    Attributes:
        function: The `DefenseFunction`, which takes `variables`.
        logits_fn: The defence as a pure function, float images `[B, H, W, C]` to
            logits, for attacks end to end: it checks nothing, and a gate has no
            gradient.
        random_logits_fn: The same with a random purifier: `(key, images) -> logits`.
            For `attacks.adaptive.averaged_logits` and `random_misclassification`.
    """

    def __init__(
        self,
        purifier: Any,
        detector: nn.Module | None,
        classify: Classify,
        variables: dict[str, Any],
        *,
        image_shape: tuple[int | None, int | None, int | None],
        inputs: str = "image",
        gate: float | None = None,
        batch_size: int = 128,
    ):
        """Takes the parts of a `DefenseFunction`, and likewise raises ValueError.

        `variables` are `{"purifier", "detector", "classifier"}`, of those there are;
        `image_shape` is `(H, W, C)` of the images it will be shown, with None for what
        may be any. `batch_size` images are a compiled call, for each size; fewer are
        padded to the next power of two.
        """
        batches.check_whole("batch_size", batch_size, 1)
        self.variables = jax.device_put(variables)
        self.image_shape = tuple(image_shape)
        self.batch_size = batch_size
        self.function = make_defense(
            purifier, detector, classify, inputs=inputs, gate=gate
        )
        self._defend = defend = jax.jit(self.function)
        self.logits_fn = Partial(lambda v, x: defend(v, x).logits, self.variables)
        self.random_logits_fn = Partial(
            lambda v, key, x: defend(v, x, key).logits, self.variables
        )

    def __call__(self, images: Any, key: jax.Array | None = None) -> Prediction:
        """Defends a batch.

        Args:
            images: As for `validate_images`.
            key: Typed PRNG key, which a random purifier needs.

        Returns:
            A `Prediction` of NumPy arrays.

        Raises:
            ValueError: See `validate_images`; or if the purifier is random and there
                is no key.
        """
        images = validate_images(images, self.image_shape)
        parts = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            size = min(self.batch_size, 1 << (len(part) - 1).bit_length())
            padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            index = start + np.arange(size, dtype=np.int32)
            found = jax.device_get(self._defend(self.variables, padded, key, index))
            parts.append(jax.tree.map(lambda x, part=part: x[: len(part)], found))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def validate_images(
    images: Any, image_shape: tuple[int | None, int | None, int | None] | None = None
) -> np.ndarray:
    """Checks images from outside and returns them as float32 in `[0, 1]`.

    Args:
        images: `[N, H, W, C]`, uint8 in 0..255 or float in `[0, 1]`.
        image_shape: `(H, W, C)` that is expected; None, also in it, for any.

    Returns:
        float32 `[N, H, W, C]`.

    Raises:
        ValueError: If rank, shape, type or range is wrong, there are no images, or a
            value is not finite.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        hint = ": add a batch axis with images[None]" if images.ndim == 3 else ""
        if images.ndim == 3 and images.shape[-1] not in (1, 3):
            hint = ": add a channel axis with images[..., None]"
        raise ValueError(
            f"images must have shape [N, H, W, C], got {list(images.shape)}{hint}"
        )
    if len(images) == 0:
        raise ValueError("got 0 images, need at least one")
    found = images.shape[1:]
    wanted = found if image_shape is None else tuple(image_shape)
    if any(n not in (size, None) for n, size in zip(wanted, found, strict=True)):
        listed = ", ".join("any" if n is None else str(n) for n in wanted)
        raise ValueError(
            f"images have shape {list(found)}, but the models were made for "
            f"[{listed}]: resize or convert them"
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255.0
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"images must be uint8 in 0..255 or float in [0, 1], got {images.dtype}"
        )
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        raise ValueError(
            f"images {np.flatnonzero(~finite)[:5].tolist()} hold NaN or infinity"
        )
    low, high = float(images.min()), float(images.max())
    if low < 0.0 or high > 1.0:
        hint = "divide by 255" if high > 2.0 and low >= 0.0 else "clip or rescale them"
        raise ValueError(
            f"float images must lie in [0, 1], got [{low:g}, {high:g}]: {hint}"
        )
    return images.astype(np.float32)
