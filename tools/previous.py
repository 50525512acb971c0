"""The release that a training started from (`init_from='released'`), for the next model card."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.gan.init_from import RELEASED
from tools import mean as means
from tools.record import Stage

# Of its model card, which are kept.
SECTIONS = ('Training data', 'How it was trained', 'Hints', 'The release before')
TEXT = """\
## The release before

The training started from the generator of an earlier release (commit {commit}, step {step:,}). In
`log.jsonl` its lines have the field `part`. Its model card says:

{sections}

"""


class Previous(NamedTuple):
    """A release."""

    folder: Path
    described: dict[str, Any]  # its config.json
    card: str
    log: list[dict[str, Any]]  # lines of log.jsonl


def find(runs: Sequence[Stage], folder: Path) -> Previous | None:
    """The release that the first run started from; None if it did not start from a release.

    Args:
        runs: result of `record.stages`.
        folder: of the release.

    Raises:
        UserError: if a file of the release is missing or damaged, or it was made from one of the
            runs.
    """
    if runs[0].config.get('init_from') != RELEASED:
        return None
    try:
        described = json.loads((folder / released.DESCRIPTION).read_text())
        log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
        found = Previous(folder, described, (folder / 'MODEL_CARD.md').read_text(), log)
    except (OSError, ValueError) as error:
        raise UserError(
            f'{folder} is no release ({error}): name the one that the training started from with '
            '--previous.'
        ) from error
    for run in runs:
        if _made_from(described, run):
            raise UserError(
                f'The release in {folder} was made from {run.name} itself: name the one that the '
                'training started from with --previous.'
            )
    return found


def _made_from(described: Mapping[str, Any], run: Stage) -> bool:
    """Whether a release, by its config.json, contains the weights of a run."""
    if recorded := described.get('run_checksum'):
        return recorded == run.checksum
    # It was written before checksums were recorded.
    data = described.get('data', {})
    ours = (run.data['fingerprint'], run.step, run.finished)
    return ours == (data.get('fingerprint'), described.get('step'), described.get('finished'))


def mean(previous: Previous | None, variables: Any, share: float, mesh: Mesh) -> Any:
    """The weighted mean of a run's variables and those of the release it started from.

    Args:
        previous: the release; None if the run did not start from one.
        variables: of the run's generator.
        share: weight of the run, in [0, 1]; the release has the rest.
        mesh: devices of the result.

    Returns:
        (1 - share) x release + share x run, float32, for parameters and batch statistics.

    Raises:
        UserError: if there is no release, or its network has other variables.
    """
    if previous is None:
        raise UserError(
            '--share is for runs that started from a release: leave it out, or train with '
            f"init_from='{RELEASED}'."
        )
    old = released.load(mesh, previous.folder).variables
    if means.shapes(old) != means.shapes(variables):
        raise UserError(
            f'The networks of the run and of {previous.folder} differ, so they have no mean: name '
            'the release that the training started from with --previous.'
        )

    found = means.mean([old, variables], [1 - share, share])
    return jax.device_put(found, sharding.state_shardings(found, mesh))


def section(previous: Previous) -> str:
    """The new model card's section about the release before, Markdown."""
    kept = ''.join(
        found[0]
        for name in SECTIONS
        if (found := re.search(rf'(?ms)^## {name}\n.*?(?=^## |\Z)', previous.card))
    )
    return TEXT.format(
        commit=previous.described.get('commit', 'unknown'),
        step=previous.described['step'],
        sections=re.sub('(?m)^##', '###', kept).strip(),
    )


def provenance(previous: Previous) -> dict[str, Any]:
    """Its entry in 'started_from' of the new config.json: all but the files' identity."""
    left_out = ('bytes', 'sha256', 'checksum')
    return {name: value for name, value in previous.described.items() if name not in left_out}


def log(previous: Previous) -> list[dict[str, Any]]:
    """Its log lines, marked as those of the release before."""
    return [{'part': 'the release before', **line} for line in previous.log]
