"""Contenders: defences as the arena meets them, made of their cards."""

import dataclasses
import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import adapters, loading
from uronet_jax.arena.cards import DefenceCard
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.models import Separation
from uronet_jax.purifiers import own_key, random_stages

# How near to 1 the answers of an image must sum up to be taken for probabilities.
_PROBABILITY_SLACK = 1e-3
# Below it a probability has no logarithm to speak of.
_LEAST_PROBABILITY = 1e-12
# Images that a function is tried on.
_TRIED = 8


@dataclasses.dataclass(frozen=True)
class Contender:
    """A defence, ready to be judged.

    Attributes:
        card: What its authors say.
        defense: As one function; with its gate, if it has one.
        variables: Of its models.
        threshold: Degraded probability above which its detector flags an image; None
            without a detector.
        random: Whether it draws.
        black_box: Whether it has no gradient.
        probabilities: Whether it answers with probabilities, of which logarithms are
            taken.
        labels: Whether it answers with labels.
        parameters: How many numbers were learned; None where nobody knows.
        identity: What tells it from others, weights and sources included.
        purifier_identity: Likewise of the purifier alone; None where its pictures are
            not worth keeping.
    """

    card: DefenceCard
    defense: DefenseFunction
    variables: dict[str, Any]
    threshold: float | None
    random: bool
    black_box: bool
    probabilities: bool
    labels: bool
    parameters: int | None
    identity: str
    purifier_identity: str | None


@dataclasses.dataclass(frozen=True)
class FunctionPurifier:
    """A purifier of a function `(key, images) -> images`.

    Its key is not that of the noise on the images, and another one for each batch.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]

    def __call__(self, variables, images, key=None, index=None) -> Separation:
        """Applies it; an answer of another shape is a ValueError."""
        del variables
        key = own_key(jax.random.key(0) if key is None else key, index)
        clean = self.function(key, images)
        if np.shape(clean) != images.shape:
            raise ValueError(
                f"a purifier must return images of the shape {list(images.shape)} that "
                f"it was given: {list(np.shape(clean))}"
            )
        return Separation(clean, images - clean)


@dataclasses.dataclass(frozen=True)
class FunctionClassifier:
    """A classifier of a function `images -> logits`, probabilities or labels."""

    function: Callable[[Any], Any]
    num_classes: int
    probabilities: bool = False
    host: bool = False

    def __call__(self, variables, images):
        """Returns `[B, K]`, logits, of images `[B, H, W, C]`."""
        del variables
        return self.logits(images)

    def logits(self, images):
        """Returns logits; an answer of another shape is a ValueError."""
        numpy = np if self.host else jnp
        found = numpy.asarray(self.function(images))
        count, classes = len(images), self.num_classes
        if found.shape == (count,) and np.issubdtype(found.dtype, np.integer):
            return numpy.eye(classes, dtype=np.float32)[found]
        if found.shape != (count, classes):
            raise ValueError(
                f"of {count} images a defence must return logits [{count}, {classes}] "
                f"or whole labels [{count}]: {found.dtype}{list(found.shape)}"
            )
        found = found.astype(np.float32)
        if self.probabilities:
            return numpy.log(numpy.maximum(found, _LEAST_PROBABILITY))
        return found


def load_contender(
    card: DefenceCard,
    classifier: loading.LoadedModel,
    images: np.ndarray,
    find_threshold: Callable[[DefenseFunction, Any, str], float],
) -> Contender:
    """Loads a defence.

    Args:
        card: Says how.
        classifier: The arena's, which stands behind a purifier.
        images: uint8 `[N, H, W, C]`, some of those it will be shown.
        find_threshold: `(defense, variables, identity) -> threshold` of its detector.

    Raises:
        ValueError: If parts do not belong together, a module or function is not there,
            or a function answers in another form.
        FileNotFoundError: If a model is missing.
    """
    load = card.load
    for name in ("function", "black_box"):
        if name in load:
            return _load_function(card, classifier.num_classes, images, name)
    if "classifier" in load:
        own = loading.load_classifier(load["classifier"])
        if own.num_classes != classifier.num_classes:
            raise ValueError(
                f"the classifier in {load['classifier']} knows {own.num_classes} "
                f"classes, the arena's {classifier.num_classes}"
            )
        classifier = own
    if not classifier.takes(images.shape[1:]):
        raise ValueError(
            f"the arena's images are of shape {list(images.shape[1:])}, the classifier "
            f"was made for images {classifier.shape_text}"
        )
    models = {"classifier": classifier}
    if "purifier" in load:
        models["purifier"] = loading.load_purifier(load["purifier"])
    if "detector" in load:
        models["detector"] = loading.load_detector(load["detector"])
    loading.check_models_match(*models.values())
    loading.check_detector(models.get("detector"), models.get("purifier"))
    parts = {role: model.module for role, model in models.items()}
    purifier = parts.get("purifier")
    if "purify" in load:
        purifier = FunctionPurifier(_import(card, load["purify"]))
        _try_purifier(purifier, images)
    defense = DefenseFunction(
        classifier_function(classifier.module),
        purifier,
        parts.get("detector"),
        loading.detector_inputs(models.get("detector")),
    )
    variables = {role: model.variables for role, model in models.items()}
    identities = {role: model.identity for role, model in models.items()}
    if "purify" in load:
        identities["purifier"] = _source_identity(card, load["purify"])
    threshold, both = None, f"{identities.get('purifier')} {identities.get('detector')}"
    if "detector" in models:
        threshold = find_threshold(defense, variables, both)
    if load.get("gated"):
        defense = dataclasses.replace(defense, gate=threshold)
    like = jax.ShapeDtypeStruct((2, *images.shape[1:]), jnp.float32)
    random = bool(random_stages(defense.purifier, variables.get("purifier"), like))
    # Those of networks; transformations are quickly made anew.
    costly = "purifier" in models and models["purifier"].variables is not None
    return Contender(
        card,
        defense,
        variables,
        threshold,
        random,
        black_box=False,
        probabilities=False,
        labels=False,
        parameters=_parameters(card, variables),
        identity=f"{identities} {load.get('gated', False)}",
        purifier_identity=identities["purifier"] if costly and not random else None,
    )


def _parameters(card, variables):
    if card.parameters is not None:
        return card.parameters
    networks = jax.tree.leaves(variables, is_leaf=_is_network)
    leaves = jax.tree.leaves([x["params"] for x in networks if _is_network(x)])
    return sum(math.prod(np.shape(leaf)) for leaf in leaves)


def _is_network(tree):
    return isinstance(tree, dict) and "params" in tree


def _try_purifier(purifier, images):
    some = jnp.asarray(images[:_TRIED], jnp.float32) / 255.0
    clean = purifier(None, some, jax.random.key(0)).clean
    if not bool(jnp.isfinite(clean).all()):
        raise ValueError("the purifier returns NaN or infinity")


def _load_function(card, num_classes, images, name):
    host = name == "black_box"
    function = _import(card, card.load[name])
    some = images[:_TRIED].astype(np.float32) / 255.0
    answer = np.asarray(function(some if host else jnp.asarray(some)))
    labels = answer.ndim == 1
    sums_to_one = (
        not labels
        and answer.ndim == 2
        and bool((answer >= 0).all())
        and bool((np.abs(answer.sum(axis=1) - 1) < _PROBABILITY_SLACK).all())
    )
    classify = FunctionClassifier(function, num_classes, sums_to_one, host)
    if not np.isfinite(
        np.asarray(classify.logits(some if host else jnp.asarray(some)))
    ).all():
        raise ValueError("the defence answers NaN or infinity")
    if host:
        classify, _ = adapters.black_box(classify.logits)
    return Contender(
        card,
        DefenseFunction(classify),
        {"classifier": {}},
        None,
        random=False,
        black_box=host,
        probabilities=sums_to_one,
        labels=labels,
        parameters=card.parameters,
        identity=_source_identity(card, card.load[name]),
        purifier_identity=None,
    )


def _import(card: DefenceCard, text: str) -> Callable:
    """Returns what `module:function` returns; its folder is looked through first."""
    module_name, _, name = text.partition(":")
    folder = card.folder or str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        # Two cards may have modules of one name in different folders.
        known = sys.modules.get(module_name)
        path = getattr(known, "__file__", None)
        if path and (Path(folder) / f"{module_name}.py").is_file():
            if Path(path).resolve().parent != Path(folder).resolve():
                del sys.modules[module_name]
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"no module {module_name} in {folder}: {error}") from error
    finally:
        sys.path.remove(folder)
    load = getattr(module, name, None)
    if not callable(load):
        raise ValueError(f"the module {module_name} has no function {name}")
    needed = [
        x
        for x in inspect.signature(load).parameters.values()
        if x.default is x.empty and x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"{text} must take no arguments and return the defence: it seems to be the "
            "defence itself"
        )
    function = load()
    if not callable(function):
        raise ValueError(
            f"{text} must return a function, not a {type(function).__name__}"
        )
    return function


def _source_identity(card: DefenceCard, text: str) -> str:
    """Tells versions of a defence apart by its module and all files beside its card.

    Weights may be among them. Folders and hidden files are not looked into, as an arena
    may be one of them.
    """
    module = sys.modules[text.partition(":")[0]]
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise ValueError(
            f"the module of {text} has no source, which tells its versions apart"
        ) from error
    total = hashlib.sha256(source.encode())
    for path in sorted(Path(card.folder or Path.cwd()).iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"\n{path.name} {found}".encode())
    return f"{text} {total.hexdigest()[:16]}"
