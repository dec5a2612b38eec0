"""The phases by name: everything that `launch.train` can train."""

from uronet_jax.specs import known_name
from uronet_jax.training import (
    adversarial_noise,
    adversarial_training,
    classifier,
    detector,
    reconstructor,
    remover,
)
from uronet_jax.training.task import Phase

PHASES: dict[str, Phase] = {
    "remover": remover.REMOVER_PHASE,
    "detector": detector.DETECTOR_PHASE,
    "classifier": classifier.CLASSIFIER_PHASE,
    "adversarial_noise": adversarial_noise.ADVERSARIAL_NOISE_PHASE,
    "adversarial_training": adversarial_training.ADVERSARIAL_TRAINING_PHASE,
    "reconstructor": reconstructor.RECONSTRUCTOR_PHASE,
}


def find_phase(name: str) -> Phase:
    """Returns a phase by name; raises ValueError if it is unknown."""
    return PHASES[known_name("phase", name, PHASES)]
