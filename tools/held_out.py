"""Whether the photographs of an evaluation were kept out of a training, for the model card."""

from collections.abc import Iterable, Mapping
from typing import Any

from chromagan_jax.data.sources import Source

HELD_OUT = 'photographs that it was not trained on'
TRAINED_ON = 'photographs of its training, so the scores say nothing about others'
UNKNOWN = 'photographs (it is not recorded whether all of its training left them out)'


def phrase(known: Iterable[str | None], source: Source) -> str:
    """What the model card calls the photographs of an evaluation.

    Args:
        known: fingerprints of all training data; None for data that were not recorded.
        source: of the evaluation.
    """
    fingerprints = set(known)
    if source.fingerprint in fingerprints:
        return TRAINED_ON
    return UNKNOWN if None in fingerprints else HELD_OUT


def fingerprints(release: Mapping[str, Any]) -> list[str | None]:
    """Of the photographs that a release and those before it were trained on.

    Args:
        release: content of its config.json: 'config', and if they are known 'data', 'hints' and
            'started_from', the trainings before it, the first of which may be a release.

    Returns:
        A fingerprint for each training; None for one that was not recorded.
    """
    earlier = release.get('started_from') or []
    found: list[str | None] = []
    for stage in [*earlier[1:], release]:
        found.append(stage.get('data', {}).get('fingerprint'))
        if trained := stage.get('hints', {}).get('data'):  # those of a release before have none
            found.append(trained.get('fingerprint'))
    if earlier:
        return found + fingerprints(earlier[0])
    origin_is_gone = bool(release['config'].get('init_from'))
    return [*found, None] if origin_is_gone else found
