"""What networks from any library's weights share: recognised by names and shapes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.models.inputs import Preprocessing
from uronet_jax.models.layers import Classifier, check_statistics

Weights = Mapping[str, np.ndarray]
# The library's name of each layer -> names of flax. The head comes last.
Layers = dict[str, tuple[str, ...]]
# Kind of a layer -> the library's names -> where flax has them, the order of the axes.
Tensors = Mapping[str, Mapping[str, tuple[str, str, tuple[int, ...]]]]


class WeightLayout(NamedTuple):
    """A network and the names of its layers.

    Attributes:
        name: What `CLASSIFIERS` calls it, such as `resnet50`.
        title: What it is called in errors.
        build: Its class with its size; takes `num_classes`, `mean` and `std`.
        layers: The library's name of each layer -> names of flax.
        biased: Whether its convolutions have biases.
        ignored: What names begin with that stand for nothing here.
        ambiguous: Why such weights are refused, if they are.
        side: Height and width that its images must have, if not as its family's.
    """

    name: str
    title: str
    build: Callable[..., nn.Module]
    layers: Layers
    biased: bool = False
    ignored: tuple[str, ...] = ()
    ambiguous: str = ""
    side: int | None = None


class Family(NamedTuple):
    """Networks that differ in their size alone, and where there are weights of them.

    Attributes:
        title: What it is called.
        source: Whose names of weights are known.
        network: The class of its modules.
        names: Its networks in `CLASSIFIERS`.
        preprocessing: How its images are made.
        layouts: Weights -> layouts that they could have.
        any_size: Whether there is no reason to expect just the usual height and width.
    """

    title: str
    source: str
    network: type[Classifier]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    layouts: Callable[[Weights], Iterator[WeightLayout]]
    any_size: bool = True


class Library(NamedTuple):
    """How a library names and lays out weights.

    Attributes:
        families: Networks of which weights are known.
        separator: What is between the names of a layer and of its weight.
        tensors: Of each kind of layer.
        bias: What the tensors call a bias.
        explain: Raises ValueError for weights whose fault is well known.
    """

    families: tuple[Family, ...]
    separator: str
    tensors: Tensors
    bias: str
    explain: Callable[[Weights, WeightLayout], None]


class ImportedNetwork(NamedTuple):
    """A network whose weights were another library's.

    Attributes:
        name: What `CLASSIFIERS` calls it, such as `resnet50`.
        module: The Flax module.
        variables: `{"params", "batch_stats"}` of float32 arrays.
        image_shape: `(H, W, C)` of the images that such networks usually see.
        any_size: Whether there is no reason to expect just this height and width.
        statistics: `mean` and `std` if they are not those of its published weights.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    image_shape: tuple[int, int, int]
    any_size: bool
    statistics: dict[str, list[float]]


def layout_tensors(
    layout: WeightLayout, library: Library
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Returns the library's name of each weight -> path in flax, order of the axes."""
    tensors = {}
    bias = {library.bias: ("params", "bias", (0,))}
    for source, path in layout.layers.items():
        kind = path[-1].partition("_")[0]
        biased = kind == "Conv" and layout.biased
        found = {**library.tensors[kind], **(bias if biased else {})}
        for name, (collection, leaf, axes) in found.items():
            key = f"{source}{library.separator}{name}"
            tensors[key] = (collection, *path, leaf), axes
    return tensors


def layout_shapes(tensors: dict, like: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape that each weight must have in the library."""
    shapes = {}
    for name, (path, axes) in tensors.items():
        leaf = like
        for part in path:
            leaf = leaf[part]
        shapes[name] = tuple(leaf.shape[axes.index(i)] for i in range(len(axes)))
    return shapes


def import_network(
    weights: Weights,
    library: Library,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImportedNetwork:
    """Recognises a network of a library by its weights and converts them.

    Args:
        weights: The library's names -> arrays.
        library: Where they are from.
        mean: Pixel mean that the network subtracts, if not that of its family.
        std: Pixel deviation that it divides by, likewise.

    Raises:
        ValueError: If they are of none of its networks, or of one that is refused; or
            mean or std are none of pixels in `[0, 1]`.
    """
    pairs = [
        (family, x) for family in library.families for x in family.layouts(weights)
    ]
    family, layout = max(pairs, key=lambda pair: _likeness(weights, library, pair[1]))
    weights = {k: x for k, x in weights.items() if not k.startswith(layout.ignored)}
    usual = family.preprocessing
    mean = tuple(usual.mean if mean is None else mean)
    std = tuple(usual.std if std is None else std)
    check_statistics(mean, std)
    *_, head = layout.layers
    bias = weights.get(f"{head}{library.separator}{library.bias}", ())
    module = layout.build(num_classes=np.size(bias) or 10, mean=mean, std=std)
    side = layout.side or usual.crop
    image_shape = (side, side, 3)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    tensors = layout_tensors(layout, library)
    problems = _misfits(weights, layout_shapes(tensors, like))
    if problems:
        library.explain(weights, layout)
        raise ValueError(
            f"these weights are of no network that is known here. The nearest is "
            f"{layout.title}; {'; '.join(problems)}. Networks that are known: "
            f"{'; '.join(family.title for family in library.families)}. "
            "Any other may be passed as a function, see make_defense"
        )
    if layout.ambiguous:
        raise ValueError(
            f"these are weights of {layout.title}, which is not supported: "
            f"{layout.ambiguous}. Pass the network itself as a function, see "
            "make_defense and adapters"
        )
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, (path, axes) in tensors.items():
        inner = variables
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = np.asarray(weights[name], np.float32).transpose(axes)
    any_size = family.any_size and layout.side is None
    statistics = {"mean": list(mean), "std": list(std)}
    if all(np.all(np.equal(statistics[x], getattr(usual, x))) for x in statistics):
        statistics = {}
    return ImportedNetwork(
        layout.name, module, variables, image_shape, any_size, statistics
    )


def _likeness(weights: Weights, library: Library, layout: WeightLayout) -> float:
    """Returns the share of names, of both, that both have."""
    names = layout_tensors(layout, library).keys()
    others = {name for name in weights if not name.startswith(layout.ignored)}
    return len(names & others) / len(names | others)


def _misfits(weights: Weights, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Returns what is wrong with weights, in words."""

    def listed(names: Iterable[str]) -> str:
        names = list(names)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    missing = [name for name in shapes if name not in weights]
    others = [name for name in weights if name not in shapes]
    differing = [
        f"{name} has shape {np.shape(weights[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in weights and np.shape(weights[name]) != shape
    ]
    found = (("missing: ", missing), ("left over: ", others), ("", differing))
    return [f"{text}{listed(names)}" for text, names in found if names]
