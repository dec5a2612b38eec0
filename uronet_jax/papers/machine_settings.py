"""Which fields of an experiment's config change no number."""

from collections.abc import Mapping
from typing import Any

# Sections whose batches are only looked at: how many at once is the machine's affair.
_LOOKED_AT = ("evaluation", "attack")
# Whole fields, and fields of any section.
_FIELDS = ("pipeline", "log_every", "steps_per_dispatch", "checkpoint_every")


def without_machine_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config of `configs/reproduce.py` without what suits the machine.

    That is how often models are saved and logged, how data reach the devices, and how
    many images are judged or attacked at once.
    """
    found = {}
    for name, value in config.items():
        if name in _FIELDS:
            continue
        if isinstance(value, Mapping):
            left_out = (*_FIELDS, "batch_size") if name in _LOOKED_AT else _FIELDS
            value = {k: v for k, v in value.items() if k not in left_out}
        found[name] = value
    return found
