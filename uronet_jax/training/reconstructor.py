"""Reconstructive training: an autoencoder learns to restore what a classifier needs.

Source: Patrick et al., "Reconstructive Training for Real-World Robustness in Image
Classification", WACV workshops 2022, and its code (`generator.py`, `gan.py` and
`util/loss_functions.py` of github.com/UTSA-VAIL/ReconstructiveTraining), which this
follows where the two differ.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.batches import check_number, check_whole
from uronet_jax.image_quality import psnr
from uronet_jax.models import Reconstructor, compute_dtype, make_reconstructor
from uronet_jax.specs import known_name
from uronet_jax.training.pairs import Pairs
from uronet_jax.training.state import (
    Batch,
    Metrics,
    TrainState,
    apply_update,
    decisions,
    masked_sums,
)
from uronet_jax.training.task import Config, Phase, Shape, Task

# Largest value of the pixels, for the PSNR: in the warm-up that of the range [-1, 1];
# in the joint part that of bytes, though images stay in [-1, 1], which adds a constant.
WARMUP_LARGEST, JOINT_LARGEST = 2.0, 255.0
_PSNR_WEIGHT, _RMSE_WEIGHT = 0.01, 1.0
# The gradient of the square root of nothing is not a number.
_LEAST_SQUARE = 1e-12
# What the classifier is to say to a restored image.
LABELS = ("true", "predictions")


def psnr_term(
    restored: jax.Array, clean: jax.Array, largest: float | jax.Array
) -> jax.Array:
    """Returns `100 - PSNR` of each image in dB, `[B]`.

    Images `[B, H, W, C]` are in `[0, 1]`; the PSNR, `20 log10(largest) - 10 log10(MSE)`
    of what they are in `[-1, 1]`, is limited as `image_quality.psnr`.
    """
    # The MSE of images in [-1, 1] is four times that of images in [0, 1].
    return 100.0 - psnr(restored, clean) - 20.0 * jnp.log10(largest / 2.0)


def rmse_term(restored: jax.Array, clean: jax.Array) -> jax.Array:
    """Returns the root of the summed squared errors, over the size of the batch.

    `sqrt(sum over images, rows and columns of the mean square over channels) / B` of
    images `[B, H, W, C]` in `[0, 1]`, as they are in `[-1, 1]`. It is the code's, and
    no mean: it grows with the side of the images and falls with the root of `B`.
    """
    squares = jnp.mean(jnp.square(2.0 * (restored - clean)), axis=-1)
    return jnp.sqrt(jnp.maximum(squares.sum(), _LEAST_SQUARE)) / len(clean)


def visual_loss(
    restored: jax.Array, clean: jax.Array, largest: float | jax.Array
) -> jax.Array:
    """Returns `0.01 (100 - mean PSNR) + RMSE`, a scalar, of images as above."""
    distance = psnr_term(restored, clean, largest).mean()
    return _PSNR_WEIGHT * distance + _RMSE_WEIGHT * rmse_term(restored, clean)


def reconstructor_task(
    reconstructor: nn.Module,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    image_shape: Shape,
    classifier: nn.Module,
    classifier_variables: Any,
    batch_size: int,
    warmup_steps: int,
    visual_weight: float = 0.005,
    class_weight: float = 1.0,
    labels: str = "true",
) -> Task:
    """Returns the task of reconstructive training.

    For `warmup_steps` the visual loss V of the restored images alone is minimised; from
    then on, with a fresh optimizer, `visual_weight * V + class_weight * CE`, where CE
    is the cross-entropy of what the frozen classifier says to them. Either way it is
    asked, so that one program serves both; in the warm-up nothing depends on it.

    The step's metrics are the `loss` that it minimises, `visual`, `cross_entropy` and
    `accuracy`. The validation's `loss`, which ranks checkpoints, is the joint one all
    along, with V of a batch of `batch_size` images all like the one that is judged;
    `accuracy` is by the true labels, and `psnr` in dB.

    Args:
        reconstructor: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where clean and degraded, such as attacked, images come from.
        image_shape: `(H, W, C)`.
        classifier: The frozen classifier.
        classifier_variables: Its variables.
        batch_size: Images of a step.
        warmup_steps: Steps of the first part; 0 leaves it out.
        visual_weight: Of V in the second part; the paper's formula has 1.
        class_weight: Of CE in the second part.
        labels: `true`, or `predictions`: what the classifier says to the clean image,
            where there are no labels.

    Raises:
        ValueError: If one of the last five is out of range.
    """
    check_reconstruction(batch_size, warmup_steps, visual_weight, class_weight, labels)

    def classify(frozen: Any, images: jax.Array) -> jax.Array:
        return classifier.apply(frozen["classifier"], images, train=False)

    def wanted(frozen: Any, clean: jax.Array, batch: Batch) -> jax.Array:
        if labels == "true":
            return batch["label"]
        return jnp.argmax(classify(frozen, clean), axis=-1)

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = pairs.train(key, frozen, batch)
        labels = wanted(frozen, clean, batch)
        warm = state.step < warmup_steps
        largest = jnp.where(warm, WARMUP_LARGEST, JOINT_LARGEST)
        fresh = optimizer.init(state.params)
        begins = state.step == warmup_steps
        opt_state = jax.tree.map(
            lambda new, old: jnp.where(begins, new, old), fresh, state.opt_state
        )

        def loss_fn(params):
            separation, mutated = reconstructor.apply(
                {"params": params, "batch_stats": state.batch_stats},
                degraded,
                train=True,
                mutable=["batch_stats"],
            )
            restored = separation.clean
            visual = visual_loss(restored, clean, largest)
            values = decisions(classify(frozen, restored), labels)
            joint = visual_weight * visual + class_weight * values["loss"].mean()
            loss = jnp.where(warm, visual, joint)
            # A batch has one loss; as sums over images it is counted by each.
            of_batch = {"loss": loss, "visual": visual}
            found = {k: jnp.full(len(clean), v) for k, v in of_batch.items()}
            found |= {"cross_entropy": values["loss"], "accuracy": values["accuracy"]}
            metrics = masked_sums(found, jnp.ones(len(clean), bool))
            return loss, (mutated.get("batch_stats", {}), metrics)

        return apply_update(state.replace(opt_state=opt_state), optimizer, loss_fn)

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        clean, degraded = pairs.validation(key, frozen, batch)
        restored = reconstructor.apply(variables, degraded, train=False).clean
        logits = classify(frozen, restored)
        entropy = decisions(logits, wanted(frozen, clean, batch))["loss"]
        # Of so many equal images the root grows by the root of their number.
        rmse = jax.vmap(rmse_term)(restored[:, None], clean[:, None])
        visual = _RMSE_WEIGHT * rmse / math.sqrt(batch_size)
        visual += _PSNR_WEIGHT * psnr_term(restored, clean, JOINT_LARGEST)
        found = {
            "loss": visual_weight * visual + class_weight * entropy,
            "visual": visual,
            "cross_entropy": entropy,
            "accuracy": decisions(logits, batch["label"])["accuracy"],
            "psnr": psnr(restored, clean),
        }
        return masked_sums(found, batch["mask"])

    return Task(
        "reconstructor",
        reconstructor,
        image_shape,
        optimizer,
        step,
        evaluate,
        ("loss", "min"),
        {**pairs.frozen, "classifier": classifier_variables},
    )


def check_reconstruction(
    batch_size: int,
    warmup_steps: int,
    visual_weight: float,
    class_weight: float,
    labels: str,
    num_steps: int | None = None,
) -> None:
    """Raises ValueError unless fields of the section `reconstruction` make sense."""
    check_whole("batch_size", batch_size, 1)
    check_whole("reconstruction.warmup_steps", warmup_steps, 0)
    check_number("reconstruction.visual_weight", visual_weight, 0.0)
    check_number("reconstruction.class_weight", class_weight, 0.0)
    if not visual_weight and not class_weight:
        raise ValueError(
            "reconstruction.visual_weight or .class_weight must be above 0: after the "
            "warm-up nothing would be learned"
        )
    known_name("reconstruction.labels", labels, LABELS)
    if num_steps is not None and warmup_steps > num_steps:
        raise ValueError(
            f"reconstruction.warmup_steps ({warmup_steps}) goes on beyond the end of "
            f"the run: num_steps is {num_steps}, those of the warm-up among them"
        )


def _build(config: Config) -> Reconstructor:
    model = config["model"]
    return make_reconstructor(
        model["variant"],
        width=model["width"],
        clean_mean=config["resolved"]["clean_mean"],
        dtype=compute_dtype(config["dtype"]),
    )


def _needs(config: Config) -> dict[str, str]:
    if not config.get("classifier"):
        raise ValueError(
            "reconstructive training asks a frozen classifier: set config.classifier "
            "to the folder of its run or a file of PyTorch weights"
        )
    return {"classifier": config["classifier"]}


def _make_task(config: Config, models: Mapping[str, Any], **given: Any) -> Task:
    classifier, classes = models["classifier"], config["resolved"]["num_classes"]
    if classifier.num_classes != classes:
        raise ValueError(
            f"the classifier in {config['classifier']} knows "
            f"{classifier.num_classes} classes and {config['data']['name']} has "
            f"{classes}: name one of this data set"
        )
    return reconstructor_task(
        _build(config),
        classifier=classifier.module,
        classifier_variables=classifier.variables,
        batch_size=config["batch_size"],
        **config["reconstruction"],
        **given,
    )


def _check(config: Config) -> None:
    sizes = {name: config[name] for name in ("batch_size", "num_steps")}
    check_reconstruction(**sizes, **config["reconstruction"])


def _updates(config: Config) -> int:
    """The schedule of the rate begins anew with the second part; it fits the longer."""
    warmup = config["reconstruction"]["warmup_steps"]
    return max(warmup, config["num_steps"] - warmup)


RECONSTRUCTOR_PHASE = Phase(
    *("purifier", _build, _make_task, _needs, _check),
    updates=_updates,
    fields=(
        *("model.variant", "model.width", "reconstruction.warmup_steps"),
        *("reconstruction.visual_weight", "reconstruction.class_weight"),
        "reconstruction.labels",
    ),
)
