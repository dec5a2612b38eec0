"""What every result carries so that it can be traced and repeated."""

import importlib.metadata
import platform
from typing import Any

import jax

import uronet_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(config: Any, *, seconds: float) -> dict[str, Any]:
    """Returns config, versions, device and wall time of a result.

    Args:
        config: JSON of what was run.
        seconds: How long it took.
    """
    device = jax.devices()[0]
    return {
        "config": config,
        "versions": {
            "uronet_jax": uronet_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "seconds": round(seconds, 1),
    }
