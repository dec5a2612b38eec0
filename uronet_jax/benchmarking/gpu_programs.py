"""The programs that users run on a GPU, as what has to be compiled of them.

Nothing here computes: arguments are shapes, and weights do not exist.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import corruptions, sharding
from uronet_jax.attacks import (
    ATTACKS,
    apgd,
    fab,
    flax_logits,
    misclassification,
    square,
    targeted_misclassification,
)
from uronet_jax.benchmarking import large_images, steps
from uronet_jax.benchmarking.base import BenchmarkSizes
from uronet_jax.benchmarking.corruptions import SUITE
from uronet_jax.corruptions import list_corruptions, make_degradation
from uronet_jax.data.corrupted import make_corrupter
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.judge import make_measurement
from uronet_jax.loading import LoadedModel
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.purifiers import make_transformation
from uronet_jax.training.classifier import classifier_task
from uronet_jax.training.experiment import make_task
from uronet_jax.training.phases import find_phase
from uronet_jax.training.state import initial_state
from uronet_jax.training.task import Config
from uronet_jax.transformations import TRANSFORMATIONS

# A compiled function that was not compiled yet, and the shapes of its arguments.
Lowerable = tuple[Any, tuple[Any, ...]]

# Batch of a training step -> that of a step on photographs, which are larger.
PHOTO_BATCHES = {128: 64, 2048: 256}
EVAL_BATCH, ATTACK_BATCH, TRANSFORMATION_BATCH = 512, 1000, 1024
# Images on a side -> in a batch.
CORRUPTION_BATCHES = {32: 1024, 64: 1024, 224: 256}
EPSILON = 8 / 255
_CLASSES, _SHAPE = 10, (32, 32, 3)
# Training images that stay on the devices.
_RESIDENT, _STEPS_PER_CALL = 45_000, 20
# What a config takes from the pixels of CIFAR-10.
_MEAN, _STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


class GpuProgram(NamedTuple):
    """A program, for so many cards.

    Attributes:
        name: `kind/what`.
        batch: Images on each card.
        devices: How many cards.
        text: What it does.
        dtype: That convolutions are meant to have.
        make: Mesh -> what is to be lowered.
        trains: Whether cards may exchange gradients.
        steps: Batches in one call.
    """

    name: str
    batch: int
    devices: int
    text: str
    dtype: str
    make: Callable[[jax.sharding.Mesh], Lowerable]
    trains: bool = False
    steps: int = 1

    @property
    def key(self) -> str:
        """What its row is called."""
        return f"{self.name}/{self.batch}/{self.devices}"


def list_programs(
    configs: Mapping[str, Config], devices: Sequence[int] = (1, 8)
) -> list[GpuProgram]:
    """Returns all programs, those that matter most first.

    Args:
        configs: Name and preset -> config, as plain dicts; those of `CONFIGS`.
        devices: Numbers of cards, of what is compiled for several; the rest is for one.
    """
    small, large = PHOTO_BATCHES
    one, several = (1,), [n for n in devices if n > 1]
    listed = [*_steps(configs, small, devices)]
    listed += _defences(configs, one)
    listed += _attacks(configs, one)
    listed += _autoattack(configs, one)
    listed += _corruptions(32, one)
    listed += _steps(configs, large, one)
    listed += _large_images(one)
    listed += _runs(configs, small, devices)
    listed += _defences(configs, several)
    listed += _transformations(one)
    listed += _corruptions(224, one)
    listed += _corruptions(64, one)
    listed += _steps(configs, large, several)
    listed += _corruptions(32, several)
    return listed


# Config -> whether it is of photographs.
CONFIGS = {
    "remover:full": False,
    "remover:universal": False,
    "detector:full": False,
    "classifier:full": False,
    "adversarial_noise:full": False,
    "adversarial_training:full": False,
    "reconstructor:full": False,
    "classifier:imagenet": True,
}
# Role of a frozen model -> the config that it is of.
_FROZEN = {"purifier": "remover:full", "classifier": "classifier:full"}


def _resolved(config: Config, shape: tuple[int, int, int]) -> dict[str, Any]:
    of_photographs = shape != _SHAPE
    return {
        **config,
        "resolved": {
            "image_shape": list(shape),
            "num_classes": 1000 if of_photographs else _CLASSES,
            "mean": _MEAN,
            "std": _STD,
            "clean_mean": 0.47,
        },
    }


def shapes(tree: Any, where: jax.sharding.Sharding) -> Any:
    """Returns the shapes of arrays, to be placed there."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=where), tree
    )


def _placed(mesh: jax.sharding.Mesh) -> tuple[Callable, Callable]:
    """Returns functions of a tree: its shapes on every card, and split over them."""
    whole, split = sharding.replicated_sharding(mesh), sharding.batch_sharding(mesh)
    return functools.partial(shapes, where=whole), functools.partial(
        shapes, where=split
    )


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _images(count: int, shape: Sequence[int], dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct((count, *shape), dtype)


def _whole_numbers(count: int) -> Any:
    return jax.ShapeDtypeStruct((count,), jnp.int32)


def _model(configs: Mapping[str, Config], name: str) -> LoadedModel:
    """Returns a model of a config, whose weights are shapes."""
    config = _resolved(configs[name], _SHAPE)
    phase = find_phase(config["phase"])
    module = phase.build(config)
    shape = phase.input_shape(config, _SHAPE)
    variables = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, *shape), jnp.float32)
    )
    return LoadedModel(
        *(phase.role, module, {"batch_stats": {}, **variables}, _SHAPE, _CLASSES),
        config,
    )


def _task(configs: Mapping[str, Config], name: str, batch: int) -> tuple[Any, Any]:
    """Returns the task of a config and one batch of it."""
    shape = (224, 224, 3) if CONFIGS[name] else _SHAPE
    config = _resolved(configs[name], shape) | {"batch_size": batch}
    needs = find_phase(config["phase"]).needs(config)
    task = make_task(config, {role: _model(configs, _FROZEN[role]) for role in needs})
    given = {
        "image": _images(batch, shape, jnp.uint8),
        "label": _whole_numbers(batch),
        "index": _whole_numbers(batch),
    }
    if (config.get("degradation") or {}).get("folder"):
        given["degraded"] = _images(batch, shape, jnp.uint16)
    return task, given


def _state(task: Any) -> Any:
    return jax.eval_shape(
        lambda key: task.extend(
            initial_state(task.module, task.optimizer, key, task.input_shape)
        ),
        jax.random.key(0),
    )


def _steps(configs, batch, devices) -> Iterator[GpuProgram]:
    for count in devices:
        for name in CONFIGS:
            size = PHOTO_BATCHES[batch] if CONFIGS[name] else batch

            def make(mesh, name=name, size=size):
                whole, split = _placed(mesh)
                task, given = _task(configs, name, size * mesh.size)
                step = sharding.compile_replicated(task.step, mesh, donate_argnums=(0,))
                arguments = whole(_state(task)), whole(task.frozen), split(given)
                return step, arguments

            yield GpuProgram(
                *(f"train/{name}", size, count, "one training step"),
                *("bfloat16", make, True),
            )


def _large_images(devices) -> Iterator[GpuProgram]:
    """What `benchmarking.large_images` times, from the networks on."""
    batch, shape = BenchmarkSizes().batch_size, (large_images.SIDE,) * 2 + (3,)

    def network(name):
        name, classes = large_images.NETWORKS[name].classifier, large_images.NUM_CLASSES
        if name is None:
            return make_remover(
                "paper", widths=BenchmarkSizes().widths, dtype=jnp.bfloat16
            )
        mean, std = (0.5,) * 3, (0.25,) * 3
        return make_classifier(name, classes, mean=mean, std=std, dtype=jnp.bfloat16)

    def state_of(module, optimizer):
        def make(key):
            return initial_state(module, optimizer, key, shape)

        return jax.eval_shape(make, jax.random.key(0))

    def step(mesh, name):
        whole, split = _placed(mesh)
        module, count = network(name), batch * mesh.size
        if large_images.NETWORKS[name].classifier is None:
            images = _images(count, shape)
            state, given = state_of(module, steps.ADAM), {"clean": images}
            given["degraded"] = images
            taken = steps.separation_step(module)
        else:
            state, labels = state_of(module, steps.SGD), _whole_numbers(count)
            given = {"label": labels, "index": labels}
            given["image"] = _images(count, shape, jnp.uint8)
            taken = classifier_task(module, steps.SGD, image_shape=shape).step
        run = sharding.compile_replicated(taken, mesh, donate_argnums=(0,))
        return run, (whole(state), whole({}), split(given))

    def forward(mesh, name):
        whole, split = _placed(mesh)
        module = network(name)
        variables = state_of(module, steps.SGD).variables

        def logits(variables, images):
            return module.apply(variables, jnp.float32(images) / 255.0, train=False)

        images = _images(batch * mesh.size, shape, jnp.uint8)
        return sharding.compile_split(logits, mesh), (whole(variables), split(images))

    for count in devices:
        for name, chosen in large_images.NETWORKS.items():
            yield GpuProgram(
                *(f"large/{name}_step", batch, count),
                "training step without augmentation, as benchmarked",
                *("bfloat16", functools.partial(step, name=name), True),
            )
            if chosen.classifier is not None:
                yield GpuProgram(
                    *(f"large/{name}_forward", batch, count),
                    "logits of uint8 images, as benchmarked",
                    *("bfloat16", functools.partial(forward, name=name)),
                )


def _runs(configs, batch, devices) -> Iterator[GpuProgram]:
    """What `launch.train` calls: many steps, on images that lie on the cards."""

    def make(mesh):
        whole, split = _placed(mesh)
        task, _ = _task(configs, "remover:full", batch * mesh.size)
        resident = {
            "image": _images(_RESIDENT, _SHAPE, jnp.uint8),
            "label": _whole_numbers(_RESIDENT),
        }
        inputs = jax.ShapeDtypeStruct((_STEPS_PER_CALL, batch * mesh.size), jnp.int32)

        def fetch(resident, x):
            images = {k: v.at[x].get(mode="promise_in_bounds") for k, v in resident}
            return sharding.constrain_batch({**images, "index": x}, mesh)

        def fetch_all(resident, x):
            return fetch(list(resident.items()), x)

        advance = sharding.compile_steps(task.step, fetch_all, mesh)
        state = whole(_state(task))
        return advance, (state, whole(task.frozen), split(resident), whole(inputs))

    for count in devices:
        yield GpuProgram(
            *("run/remover:full", batch, count),
            f"{_STEPS_PER_CALL} training steps in one call, with batches from "
            f"{_RESIDENT:,} images on the cards, from which each gets its part",
            *("bfloat16", make, True, _STEPS_PER_CALL),
        )


def _defence(configs, gate: float | None = 0.5) -> tuple[DefenseFunction, Any]:
    models = {
        "purifier": _model(configs, "remover:full"),
        "classifier": _model(configs, "classifier:full"),
        "detector": _model(configs, "detector:full"),
    }
    defence = DefenseFunction(
        classifier_function(models["classifier"].module),
        models["purifier"].module,
        models["detector"].module,
        gate=gate,
    )
    return defence, {role: model.variables for role, model in models.items()}


def _defences(configs, devices) -> Iterator[GpuProgram]:
    def evaluate(mesh):
        whole, split = _placed(mesh)
        defence, variables = _defence(configs, None)
        measure = make_measurement(defence)
        count = EVAL_BATCH * mesh.size
        images = _images(count, _SHAPE)
        batch = {
            "image": _images(count, _SHAPE, jnp.uint8),
            "label": _whole_numbers(count),
            "index": _whole_numbers(count),
        }
        judge = sharding.compile_replicated(measure, mesh)
        return judge, (whole(variables), whole(_key()), split(images), split(batch))

    def degrade(mesh):
        whole, split = _placed(mesh)
        level = make_degradation([("shot_noise", 60.0)])

        def noisy(key, level, images, index):
            return corruptions.degrade(key, images, level, index)

        count = EVAL_BATCH * mesh.size
        run = sharding.compile_split(noisy, mesh)
        return run, (
            *(whole(_key()), whole(level), split(_images(count, _SHAPE))),
            split(_whole_numbers(count)),
        )

    def defend(mesh):
        whole, split = _placed(mesh)
        defence, variables = _defence(configs)
        run = sharding.compile_split(lambda v, x: defence(v, x), mesh)
        return run, (whole(variables), split(_images(EVAL_BATCH * mesh.size, _SHAPE)))

    def attack(mesh):
        whole, split = _placed(mesh)
        defence, variables = _defence(configs, None)
        count = EVAL_BATCH * mesh.size

        def run(variables, key, images, labels):
            def logits_fn(x):
                return defence.answer(variables, x).logits

            return ATTACKS["pgd_linf"](key, images, logits_fn, labels, epsilon=EPSILON)

        arguments = whole(variables), whole(_key()), split(_images(count, _SHAPE))
        run = sharding.compile_split(run, mesh)
        return run, (*arguments, split(_whole_numbers(count)))

    for count in devices:
        for name, text, make in (
            ("defence/gated", "remover, detector, gate, classifier", defend),
            ("defence/evaluation", "all that a judge measures of a batch", evaluate),
            ("defence/degradation", "any noise of the suite, of a batch", degrade),
            ("defence/attacked", "PGD through remover and classifier", attack),
        ):
            yield GpuProgram(name, EVAL_BATCH, count, text, "bfloat16", make)


def _attacked(configs, mesh) -> tuple[Any, tuple[Any, ...]]:
    """Returns the module that is attacked, and shapes: weights, key, images, labels."""
    whole, split = _placed(mesh)
    model, count = _model(configs, "classifier:full"), ATTACK_BATCH * mesh.size
    # Attacks are judged in float32.
    module = model.module.clone(dtype=jnp.float32)
    given = whole(model.variables), whole(_key()), split(_images(count, _SHAPE))
    return module, (*given, split(_whole_numbers(count)))


def _attacks(configs, devices) -> Iterator[GpuProgram]:
    for count in devices:
        for name, attack in ATTACKS.items():

            def make(mesh, attack=attack):
                module, given = _attacked(configs, mesh)
                options = {} if attack.minimal else {"epsilon": EPSILON}
                if attack.norm == "l2" and options:
                    options = {"epsilon": 0.5}

                def run(variables, key, images, labels):
                    logits_fn = flax_logits(module, variables, train=False)
                    return attack(key, images, logits_fn, labels, **options)

                return sharding.compile_split(run, mesh), given

            yield GpuProgram(
                *(f"attack/{name}", ATTACK_BATCH, count),
                "attack on ResNet-20",
                *("float32", make),
            )


def _autoattack(configs, devices) -> Iterator[GpuProgram]:
    """The parts of the standard version, one run of each."""

    def on_loss(function, make_loss, **options):
        def run(logits_fn, key, images, labels):
            loss_fn = make_loss(logits_fn, labels)
            return function(key, images, loss_fn, epsilon=EPSILON, **options)

        return run

    def targeted(logits_fn, labels):
        return targeted_misclassification(logits_fn, labels, (labels + 1) % _CLASSES)

    def boundary(logits_fn, key, images, labels):
        # Each of nine targets is such a run.
        options = {"epsilon": EPSILON, "targets": 1}
        return fab(key, images, logits_fn, labels, norm="linf", **options)

    cross_entropy = functools.partial(misclassification, loss="cross_entropy")
    margin = functools.partial(misclassification, loss="margin")
    parts = {
        "apgd-ce": on_loss(apgd, cross_entropy, norm="linf"),
        "apgd-t": on_loss(apgd, targeted, norm="linf"),
        "fab-t": boundary,
        "square": on_loss(square, margin, norm="linf", steps=5000),
        "classify": lambda logits_fn, key, images, labels: logits_fn(images),
    }
    for count in devices:
        for name, part in parts.items():

            def make(mesh, part=part):
                module, given = _attacked(configs, mesh)

                def run(variables, *rest):
                    logits_fn = flax_logits(module, variables, train=False)
                    return part(logits_fn, *rest)

                return sharding.compile_split(run, mesh), given

            yield GpuProgram(
                *(f"autoattack/{name}", ATTACK_BATCH, count),
                "part of AutoAttack on ResNet-20",
                *("float32", make),
            )


def _corruptions(side, devices) -> Iterator[GpuProgram]:
    batch = CORRUPTION_BATCHES[side]
    for count in devices:
        for name in list_corruptions(SUITE):

            def make(mesh, name=name):
                whole, split = _placed(mesh)
                images = batch * mesh.size
                given = {
                    "image": _images(images, (side, side, 3), jnp.uint8),
                    "index": _whole_numbers(images),
                }
                level = jax.ShapeDtypeStruct((), jnp.int32)
                corrupter = make_corrupter(f"{SUITE}/{name}", (), mesh)
                return corrupter, (whole(_key()), whole(level), split(given))

            yield GpuProgram(
                *(f"corruption_{side}/{name}", batch, count),
                f"{side}x{side} images, uint8 to uint8, any severity of {SUITE}",
                *("float32", make),
            )


def _transformations(devices) -> Iterator[GpuProgram]:
    for count in devices:
        for name, transformation in TRANSFORMATIONS.items():

            def make(mesh, name=name, transformation=transformation):
                whole, split = _placed(mesh)
                purifier, images = make_transformation(name), TRANSFORMATION_BATCH
                images *= mesh.size
                # Patches are the user's.
                patches = jax.ShapeDtypeStruct((10_000, 5, 5, 3), jnp.float32)
                data = patches if name == "quilting" else purifier.load()
                given = whole(data), split(_images(images, _SHAPE))
                if transformation.random:
                    given = *given, whole(_key()), split(_whole_numbers(images))

                def purify(variables, images, key=None, index=None):
                    return purifier(variables, images, key, index).clean

                return sharding.compile_split(purify, mesh), given

            yield GpuProgram(
                *(f"transformation/{name}", TRANSFORMATION_BATCH, count),
                "32x32 images, the usual parameters",
                *("float32", make),
            )
