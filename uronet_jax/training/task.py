"""What a phase of training is, and what it hands to the runner."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from flax import linen as nn

from uronet_jax.models import compute_dtype, make_classifier
from uronet_jax.training.state import Evaluation, Step, TrainState

Shape = tuple[int, int, int]
Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A model, how it learns and how it is judged.

    Attributes:
        name: Of the phase, for people.
        module: The module that is trained.
        input_shape: `(H, W, C)` of its input.
        optimizer: Its optimizer.
        step: The phase's update.
        evaluation: The phase's validation.
        best_metric: Name of the metric that ranks checkpoints, and `min` or `max`.
        frozen: What step and evaluation take besides state and batch.
        initial: `{"params", "batch_stats"}` to start from; None draws them.
        extend: Adds to a state that was drawn what else the step keeps there.
    """

    name: str
    module: nn.Module
    input_shape: Shape
    optimizer: optax.GradientTransformation
    step: Step
    evaluation: Evaluation
    best_metric: tuple[str, str]
    frozen: Any = dataclasses.field(default_factory=dict)
    initial: Any = None
    extend: Callable[[TrainState], TrainState] = lambda state: state


class Phase(NamedTuple):
    """A way to train something. `phases.PHASES` has one line for each.

    Attributes:
        role: What its models are in a defence: `purifier`, `detector`, `classifier`.
        build: Config with `resolved` -> the module, as it is used.
        make_task: `(config, models, optimizer=, pairs=, image_shape=) -> Task`, where
            `models` has role -> frozen model, of those that `needs` names.
        needs: Config -> role -> where frozen models are loaded from, see `loading`.
        check: Raises ValueError if a field of the config is out of range.
        input_shape: Config and `(H, W, C)` of the images -> that of the module's input.
        degrades: Whether it cannot do without a degradation.
        updates: Config -> how many steps update the module, for its learning rate.
        fields: What a config must have besides what all phases need, `section.field`.
    """

    role: str
    build: Callable[[Config], nn.Module]
    make_task: Callable[..., Task]
    needs: Callable[[Config], dict[str, str]] = lambda config: {}
    check: Callable[[Config], None] = lambda config: None
    input_shape: Callable[[Config, Shape], Shape] = lambda config, shape: shape
    degrades: bool = True
    updates: Callable[[Config], int] = lambda config: config["num_steps"]
    fields: tuple[str, ...] = ("model.name",)


def build_classifier(config: Config) -> nn.Module:
    """Returns the classifier that a config with `resolved` describes."""
    resolved = config["resolved"]
    return make_classifier(
        config["model"]["name"],
        resolved["num_classes"],
        mean=resolved["mean"],
        std=resolved["std"],
        dtype=compute_dtype(config["dtype"]),
    )
