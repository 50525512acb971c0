"""The description of a run in its workdir, config.json."""

import json
from pathlib import Path
from typing import Any

from chromagan_jax import config as config_lib
from chromagan_jax.errors import UserError
from chromagan_jax.utils import paths


def read_run(workdir: Path) -> dict[str, Any]:
    """The contents of `config.json`: 'schema_version', 'config', 'data' and 'versions'.

    Raises:
        UserError: if the file is missing, is not JSON, or has another schema version.
    """
    path = workdir / 'config.json'
    content = paths.read(path)
    if content is None:
        raise UserError(f'{workdir} is not a workdir of a run: it holds no config.json.')
    try:
        run: dict[str, Any] = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f'{path} is damaged ({error}): restore it from a copy.') from None
    if (version := run.get('schema_version')) != config_lib.SCHEMA_VERSION:
        raise UserError(
            f'{path} has the schema version {version}, and this chromagan_jax reads version '
            f'{config_lib.SCHEMA_VERSION}: use the release that wrote it, or another --workdir.'
        )
    return run
