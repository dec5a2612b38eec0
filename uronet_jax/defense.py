"""The defence: remover, detector and classifier as one function of the images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from uronet_jax.models import Remover, Separation, layers

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
        separation: What the remover made of them.
        inputs: `image` (image and noise pattern), `clean` (purified image and noise
            pattern) or `image_only`.

    Returns:
        `[B, H, W, 2C]`, or `[B, H, W, C]` for `image_only`.

    Raises:
        ValueError: If `inputs` is unknown.
    """
    if inputs not in DETECTOR_INPUTS:
        raise ValueError(
            f"unknown detector input {inputs!r}: choose from {list(DETECTOR_INPUTS)}"
        )
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
        degraded_probability: `[B]` in `[0, 1]`.
        clean: `[B, H, W, C]` in `[0, 1]`, the purified picture.
        noise: `[B, H, W, C]` in `[-1, 1]`, the signed noise pattern.
    """

    logits: jax.Array
    degraded_probability: jax.Array
    clean: jax.Array
    noise: jax.Array


Classify = Callable[[Any, jax.Array], jax.Array]


def make_defense(
    remover: Remover,
    detector: nn.Module,
    classify: Classify,
    *,
    inputs: str = "image",
    gate: float | None = None,
) -> Callable[[Any, jax.Array], Prediction]:
    """Builds the defence as one pure function, to be jitted by the caller.

    Args:
        remover: Separates the images.
        detector: Two-class module; class 1 is degraded.
        classify: `(variables, images) -> logits`, any classifier of images in
            `[0, 1]`; `classifier_function` makes it from a Flax module.
        inputs: What the detector looks at, see `detector_input`.
        gate: With a threshold in `[0, 1]` the classifier is shown the purified
            picture only where the degraded probability is above it, and the image
            as it came elsewhere. None always purifies. Either way the classifier
            runs once.

    Returns:
        `defend(frozen, images) -> Prediction`, with float images `[B, H, W, C]` in
        `[0, 1]` and `frozen = {"remover", "detector", "classifier"}`, the variables
        of the three. Differentiable end to end, but for the decision of the gate.

    Raises:
        ValueError: If `gate` is not in `[0, 1]`.
    """
    if gate is not None and not 0.0 <= gate <= 1.0:
        raise ValueError(f"gate must be a probability in [0, 1] or None: {gate}")

    def defend(frozen: Any, images: jax.Array) -> Prediction:
        layers.check_images(images)
        separation = remover.apply(frozen["remover"], images)
        features = detector_input(images, separation, inputs)
        detector_logits = detector.apply(frozen["detector"], features, train=False)
        probability = nn.softmax(detector_logits)[:, 1]
        shown = separation.clean
        if gate is not None:
            shown = jnp.where((probability > gate)[:, None, None, None], shown, images)
        logits = classify(frozen["classifier"], shown)
        return Prediction(logits, probability, separation.clean, separation.noise)

    return defend


def classifier_function(classifier: nn.Module) -> Classify:
    """Returns `(variables, images) -> logits` of a Flax classifier, for inference."""
    return lambda variables, images: classifier.apply(variables, images, train=False)


class Defense:
    """The defence ready for use on arrays of any length, uint8 or float.

    Compiles once for a batch size and runs every input in batches of that size.
    """

    def __init__(
        self,
        remover: Remover,
        detector: nn.Module,
        classify: Classify,
        variables: dict[str, Any],
        *,
        image_shape: tuple[int, int, int],
        inputs: str = "image",
        gate: float | None = None,
        batch_size: int = 128,
    ):
        """Takes modules and their variables, see `make_defense`.

        Args:
            remover: As for `make_defense`, and likewise the next two.
            detector: Two-class module.
            classify: `(variables, images) -> logits`.
            variables: `{"remover", "detector", "classifier"}`.
            image_shape: `(H, W, C)` of the images it will be shown.
            inputs: What the detector looks at.
            gate: Threshold of the gate, or None.
            batch_size: Images in a compiled call; a shorter rest is padded.

        Raises:
            ValueError: If `gate` or `batch_size` is out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1: {batch_size}")
        self.variables = jax.device_put(variables)
        self.image_shape = tuple(image_shape)
        self.batch_size = batch_size
        self._defend = jax.jit(
            make_defense(remover, detector, classify, inputs=inputs, gate=gate)
        )
        # One object, so that attacks compile once.
        self._logits = lambda variables, images: self._defend(variables, images).logits

    @property
    def logits_fn(self) -> Partial:
        """The defence as a pure function, float images `[B, H, W, C]` to logits.

        For attacks on it end to end, under jit and grad: it checks nothing. Its gate,
        if there is one, has no gradient.
        """
        return Partial(self._logits, self.variables)

    def __call__(self, images: Any) -> Prediction:
        """Defends a batch.

        Args:
            images: `[N, H, W, C]`, uint8 in 0..255 or float in `[0, 1]`.

        Returns:
            A `Prediction` of NumPy arrays.

        Raises:
            ValueError: If shape, type or range of the images is wrong, or one holds
                NaN.
        """
        images = validate_images(images, self.image_shape)
        parts = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            missing = self.batch_size - len(part)
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            prediction = jax.device_get(self._defend(self.variables, padded))
            parts.append(Prediction(*(x[: len(part)] for x in prediction)))
        return Prediction(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def validate_images(
    images: Any, image_shape: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Checks images from outside and returns them as float32 in `[0, 1]`.

    Args:
        images: `[N, H, W, C]`, uint8 in 0..255 or float in `[0, 1]`.
        image_shape: `(H, W, C)` that is expected, or None for any.

    Returns:
        float32 `[N, H, W, C]`.

    Raises:
        ValueError: If rank, shape, type or range is wrong, there are no images, or a
            value is not finite.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        hint = "add a batch axis with images[None]" if images.ndim == 3 else ""
        if images.ndim == 3 and images.shape[-1] not in (1, 3):
            hint = "add a channel axis with images[..., None]"
        raise ValueError(
            f"images must have shape [N, H, W, C], got {list(images.shape)}"
            + (f": {hint}" if hint else "")
        )
    if len(images) == 0:
        raise ValueError("got 0 images, need at least one")
    if image_shape is not None and images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"images have shape {list(images.shape[1:])}, but the models were made for "
            f"{list(image_shape)}: resize or convert them"
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
