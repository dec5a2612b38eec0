"""Every attack against foolbox and torchattacks, on one network and its images.

Times are of a second call, so without compilation; everybody uses as many threads as
the process may (`taskset` limits them). Let nothing else run beside it.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from uronet_jax.attacks import (
    ATTACKS,
    adaptive,
    autoattack,
    balls,
    flax_logits,
    misclassification,
)
from uronet_jax.attacks.auto.versions import VERSIONS
from uronet_jax.attacks.objectives import is_wrong
from uronet_jax.batches import check_whole
from uronet_jax.benchmarking.attacks import (
    FOOLBOX,
    TORCHATTACKS,
    peer_attack,
    torch_autoattack,
    with_version,
)
from uronet_jax.benchmarking.base import OURS, stored_content
from uronet_jax.data import open_source
from uronet_jax.host import num_threads
from uronet_jax.loading import LoadedModel, load_classifier
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import results

LINF, L2 = 1 / 255, 0.1


class AttackPair(NamedTuple):
    """One attack here and there."""

    peer: str
    attack: str  # Key of `ATTACKS`, or `autoattack_` and a norm.
    find: Callable[[Any], Callable[..., Any]]  # See `peer_attack`.
    theirs: dict[str, Any]
    parameters: dict[str, Any]  # Of ours.
    deterministic: bool = False  # Both do the same steps, so that each image counts.
    images: int = 10**9  # At most, where the peer is slow.


_PGD = {"steps": 20, "epsilon": LINF, "step_size": LINF / 5}
_PGD_L2 = {"steps": 20, "epsilon": L2, "step_size": L2 / 5}
_START = {"random_start": False}
# The same in foolbox, which is given its epsilon with the images, and in torchattacks.
_FB = {"steps": 20, "abs_stepsize": LINF / 5} | _START
_FB_L2 = _FB | {"abs_stepsize": L2 / 5}
_TA = {"steps": 20, "eps": LINF, "alpha": LINF / 5}
_TA_L2 = {"steps": 20, "eps": L2, "alpha": L2 / 5} | _START
_CW = {"binary_search_steps": 5, "steps": 100}
_FAB = {"steps": 20}
_NOISE = {"steps": 100, "epsilon": 20 * L2}
# AutoAttack shortened, so that the last of its attacks have images left in little time.
_SHORT = {"apgd": 20, "fab": 10, "square": 200}
_TA_AUTO = {"steps": _SHORT, "seed": 0}


def _in_both_norms(attack, find, theirs, parameters, budgets=(LINF, L2)):
    """Returns the pairs of an attack that torchattacks has in two norms."""
    return [
        AttackPair(
            TORCHATTACKS,
            f"{attack}_{norm.lower()}",
            find,
            {"norm": norm, "eps": epsilon, **theirs},
            {"epsilon": epsilon, **parameters},
        )
        for norm, epsilon in zip(("Linf", "L2"), budgets, strict=True)
    ]


_OF_FOOLBOX = (
    ("fgsm_linf", lambda fb: fb.FGSM, {}, {"epsilon": LINF}, True),
    ("fgsm_l2", lambda fb: fb.L2FastGradientAttack, {}, {"epsilon": L2}, True),
    ("ifgsm_linf", lambda fb: fb.LinfBasicIterativeAttack, _FB, _PGD, True),
    ("ifgsm_l2", lambda fb: fb.L2BasicIterativeAttack, _FB_L2, _PGD_L2, True),
    ("pgd_linf", lambda fb: fb.LinfPGD, _FB, _PGD | _START, True),
    (
        "gaussian_noise_l2",
        lambda fb: fb.L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack,
        {"repeats": 100},
        _NOISE,
    ),
    (
        "uniform_noise_l2",
        lambda fb: fb.L2ClippingAwareRepeatedAdditiveUniformNoiseAttack,
        {"repeats": 100},
        _NOISE,
    ),
    ("deepfool_l2", lambda fb: fb.L2DeepFoolAttack, {"steps": 50}, {}, True),
    ("deepfool_linf", lambda fb: fb.LinfDeepFoolAttack, {"steps": 50}, {}, True),
    ("ddn_l2", lambda fb: fb.DDNAttack, {"steps": 100}, {"steps": 100}),
    (
        "carlini_wagner_l2",
        lambda fb: fb.L2CarliniWagnerAttack,
        _CW | {"stepsize": 0.01},
        _CW | {"step_size": 0.01},
        False,
        16,
    ),
)
_OF_TORCHATTACKS = (
    ("fgsm_linf", lambda ta: ta.FGSM, {"eps": LINF}, {"epsilon": LINF}, True),
    ("ifgsm_linf", lambda ta: ta.BIM, _TA, _PGD, True),
    ("pgd_linf", lambda ta: ta.PGD, _TA, _PGD),
    ("pgd_l2", lambda ta: ta.PGDL2, _TA_L2, _PGD_L2 | _START, True),
    # With a budget that it does not reach: ours looks for the smallest perturbation.
    ("fab_linf", lambda ta: ta.FAB, _FAB | {"eps": 16 * LINF}, _FAB, False, 16),
    ("fab_l2", lambda ta: ta.FAB, _FAB | {"norm": "L2", "eps": 1.6}, _FAB, False, 16),
)
_STEPS = {"steps": 50}
PAIRS = (
    *(AttackPair(FOOLBOX, *row) for row in _OF_FOOLBOX),
    *(AttackPair(TORCHATTACKS, *row) for row in _OF_TORCHATTACKS),
    *_in_both_norms("apgd_ce", lambda ta: ta.APGD, _STEPS, _STEPS),
    *_in_both_norms("apgd_dlr", lambda ta: ta.APGD, _STEPS | {"loss": "dlr"}, _STEPS),
    *_in_both_norms("apgd_t", lambda ta: ta.APGDT, _STEPS | {"n_classes": 10}, _STEPS),
    *_in_both_norms(
        "square",
        lambda ta: ta.Square,
        {"n_queries": 500, "resc_schedule": False},
        {"steps": 500},
        (2 * LINF, 3 * L2),
    ),
    *_in_both_norms("autoattack", lambda ta: torch_autoattack, _TA_AUTO, {}),
)


# `(key, images, logits_fn, labels, epsilon=, norm=) -> result`.
_autoattack = functools.partial(
    autoattack,
    version=[
        step._replace(parameters={**step.parameters, "steps": _SHORT[step.attack]})
        for step in VERSIONS["standard"]
    ],
    batch_size=32,
)


def compare_pair(
    pair: AttackPair, model: LoadedModel, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Returns the row of a pair, on images that the classifier gets right."""
    images, labels = images[: pair.images], labels[: pair.images]
    logits_fn = flax_logits(model.module, model.variables, train=False)
    whole = pair.attack.startswith("autoattack")
    attack = None if whole else ATTACKS[pair.attack]
    norm = pair.attack.rsplit("_", 1)[1]

    def ours() -> np.ndarray:
        key = jax.random.key(0)
        if whole:
            problem = key, images, logits_fn, labels
            return _autoattack(*problem, norm=norm, **pair.parameters).images
        if pair.attack.startswith(("fgsm", "ifgsm", "pgd")):
            # The peers' go on after a success, so ours must too.
            loss_fn = misclassification(logits_fn, labels, loss=attack.loss)
            loss_fn = adaptive.without_success(loss_fn)
            return np.asarray(attack.on_loss(key, images, loss_fn, **pair.parameters))
        return np.asarray(attack(key, images, logits_fn, labels, **pair.parameters))

    name, budget = with_version(pair.peer), pair.parameters.get("epsilon")
    network = model.module, model.variables
    theirs = peer_attack(pair.peer, pair.find, pair.theirs, *network, epsilon=budget)
    wrong, sizes, seconds = {}, {}, {}
    for who, run in ((OURS, ours), (name, lambda: theirs(images, labels))):
        adversarial = run()
        wrong[who] = np.asarray(is_wrong(logits_fn(jnp.asarray(adversarial)), labels))
        sizes[who] = np.asarray(balls.size(adversarial - images, norm))
        start = time.perf_counter()
        run()
        seconds[who] = time.perf_counter() - start
    both = wrong[OURS] & wrong[name]
    median = {
        who: float(np.median(x[both])) if both.any() else None
        for who, x in sizes.items()
    }
    return {
        "attack": pair.attack,
        "peer": name,
        "norm": norm,
        "minimal": not whole and attack.minimal,
        "deterministic": pair.deterministic,
        "parameters": pair.parameters | (_SHORT if whole else {}),
        "num_images": len(images),
        "time_ratio": seconds[OURS] / seconds[name],
        "success": float(wrong[OURS].mean()),
        "peer_success": float(wrong[name].mean()),
        "share_differing": float((wrong[OURS] != wrong[name]).mean()),
        "median_norm": median[OURS],
        "peer_median_norm": median[name],
    }


def right_images(
    model: LoadedModel, dataset: str, data_dir: str | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first test images that are classified rightly, and their labels."""
    source = open_source(dataset, "test", data_dir=data_dir)
    if not model.takes(source.image_shape):
        raise ValueError(
            f"{dataset} has images of {list(source.image_shape)}, the classifier was "
            f"made for images {model.shape_text}"
        )
    check_whole("num_images", count, 1, len(source) // 2)
    images, labels = source.read(np.arange(2 * count))
    images = images.astype(np.float32) / 255
    logits = model.module.apply(model.variables, images, train=False)
    right = np.flatnonzero(np.argmax(logits, axis=-1) == labels)[:count]
    if len(right) < count:
        raise ValueError(f"fewer than half of the images of {dataset} are right")
    return images[right], np.asarray(labels)[right]


def measure_pairs(
    pairs: Sequence[AttackPair],
    model: LoadedModel,
    images: np.ndarray,
    labels: np.ndarray,
    path: str | os.PathLike,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Measures what the file does not hold yet and writes it after every row."""
    result = stored_content(path, "attack_agreement")
    if result is None:
        result = {"rows": [], "seconds": 0.0, "config": config}
    if result["config"] != config:
        raise ValueError(f"{path} holds another result: choose another --out")
    rows, start = result["rows"], time.perf_counter() - result["seconds"]
    done = {(row["attack"], row["peer"].split()[0]) for row in rows}
    for pair in tqdm(pairs, desc="attacks"):
        if (pair.attack, pair.peer) in done:
            continue
        rows.append(compare_pair(pair, model, images, labels))
        origin = provenance(config, seconds=time.perf_counter() - start)
        result = {"schema": results.ATTACK_AGREEMENT, "rows": rows, **origin}
        write_json(path, result)
    return result


def measure_agreement(
    classifier: str | os.PathLike,
    path: str | os.PathLike,
    *,
    dataset: str,
    num_images: int,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Compares all of `PAIRS`, on a run or `.npz` of a ResNet; see `measure_pairs`."""
    model = load_classifier(classifier)
    images, labels = right_images(model, dataset, data_dir, num_images)
    config = {
        "classifier": model.config["model"]["name"],
        "dataset": dataset,
        "num_images": num_images,
        "seed": 0,
        "threads": num_threads(),
    }
    return measure_pairs(PAIRS, model, images, labels, path, config)
