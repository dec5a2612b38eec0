"""Image data: sources (embedded, generated, TFDS) and pipelines that feed a mesh.

Importing this package loads neither TFDS nor Grain: both are imported on first use.
"""

from uronet_jax.data.augment import AUGMENTATIONS
from uronet_jax.data.pipelines import (
    PIPELINES,
    OnDevice,
    Streamed,
    evaluation_batches,
    make_pipeline,
)
from uronet_jax.data.sources import PairedSource, Source, open_source

__all__ = [
    "AUGMENTATIONS",
    "PIPELINES",
    "OnDevice",
    "PairedSource",
    "Source",
    "Streamed",
    "evaluation_batches",
    "make_pipeline",
    "open_source",
]
