"""The record of a training in its workdir, without paths of the machine."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chromagan_jax.config import Config, flatten, from_dict, load
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan.init_from import RELEASED
from chromagan_jax.gan.workdir import read_run
from tools.compare import ROOT, processor
from tools.table import minutes, read_json

LINES = 100  # maximum for the training of a stage, and for its evaluation


class Stage(NamedTuple):
    """A run of a training."""

    name: str  # of its workdir
    config: dict[str, Any]  # of `portable`
    data: dict[str, Any]  # 'records' and 'fingerprint' of the photographs
    versions: dict[str, str]
    lines: list[dict[str, Any]]  # of metrics.jsonl, up to `step`
    step: int  # of the newest checkpoint
    finished: str  # date, as 2030-12-31
    checksum: int | None = None  # of the generator of the newest checkpoint; None: not recorded


def stages(workdir: Path) -> list[Stage]:
    """The run in a workdir, last, after the runs whose weights it was started from (`init_from`).

    An earlier run is searched under its old path and beside the workdir. The released weights are
    no run.

    Raises:
        UserError: if `workdir` holds no run, or a file is damaged.
    """
    found: dict[Path, Stage] = {}
    following: Path | None = workdir
    while following is not None and following.resolve() not in found:
        run = read_run(following)
        found[following.resolve()] = _stage(following, run)
        origin = run['config'].get('init_from')
        if not origin or origin == RELEASED:
            break
        places = (Path(origin), following.resolve().parent / Path(origin).name)
        following = next((p for p in places if (p / 'config.json').exists()), None)
    return list(found.values())[::-1]


def _stage(workdir: Path, run: Mapping[str, Any]) -> Stage:
    path, beat = workdir / 'metrics.jsonl', workdir / 'heartbeat.json'
    try:
        lines, heartbeat = read_json(path), read_json(beat)
    except ValueError as error:
        raise UserError(
            f'metrics.jsonl or heartbeat.json in {workdir} is damaged ({error}): restore it from '
            'a copy.'
        ) from error
    # Steps after the newest checkpoint are lost.
    step = max(checkpoints.kept_steps(workdir) or [line['step'] for line in lines], default=0)
    saved = _saved(workdir, step)
    # A finished run that is started again writes a new heartbeat, but no checkpoint.
    at = (saved.get('commit_timestamp_nsecs') or 0) / 1e9 or (heartbeat or {}).get('time')
    at = at or (workdir / 'config.json').stat().st_mtime
    return Stage(
        name=workdir.resolve().name,
        config=portable(run['config']),
        data=run['data'],
        # The platform contains the version of the machine's kernel.
        versions={k: v for k, v in run['versions'].items() if k != 'platform'},
        lines=[line for line in lines if line['step'] <= step],
        step=step,
        finished=time.strftime('%Y-%m-%d', time.gmtime(at)),
        checksum=(saved.get('custom_metadata') or {}).get(checkpoints.GENERATOR_CHECKSUM),
    )


def _saved(workdir: Path, step: int) -> dict[str, Any]:
    """What Orbax wrote about a checkpoint; {} if there is none."""
    path = workdir / checkpoints.CHECKPOINTS / str(step) / '_CHECKPOINT_METADATA'
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def check_is_no_run(output: Path) -> None:
    """Raises UserError if the folder --output is the workdir of a run, which it would replace."""
    try:
        described = json.loads((output / 'config.json').read_text())
    except (OSError, ValueError):
        return
    # The first releases have a schema version too.
    if isinstance(described, dict) and 'schema_version' in described and 'sha256' not in described:
        raise UserError(f'{output} is the workdir of a run: choose another --output.')


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with only the last part of each path; 'tfds:NAME/CONFIG' is no path."""

    def shown(value: Any) -> Any:
        if isinstance(value, Mapping):
            return portable(value)
        is_path = isinstance(value, str) and '/' in value and not value.startswith('tfds:')
        return Path(value).name if is_path else value

    return {name: shown(value) for name, value in config.items()}


def command(config: Mapping[str, Any]) -> str:
    """The command that trains with a config, based on the most similar file in configs/.

    '' if no file has networks with the same fields.
    """
    wanted = flatten(from_dict(Config, config))
    networks = {field for field in wanted if field.startswith(('generator.', 'discriminator.'))}
    commands = []
    for path in sorted((ROOT / 'configs').glob('*.py')):
        declared = flatten(load(str(path)))
        own = {field for field in declared if field.startswith(('generator.', 'discriminator.'))}
        if own == networks:
            # A weight that one side lacks is 0 there; all other fields are on both sides.
            fields = dict.fromkeys([*declared, *wanted])
            pairs = {field: (declared.get(field, 0.0), wanted.get(field, 0.0)) for field in fields}
            changed = {field: now for field, (before, now) in pairs.items() if now != before}
            flags = [shlex.quote(f'--config.{field}={now}') for field, now in changed.items()]
            start = f'python -m chromagan_jax.main --config=configs/{path.name}'
            commands.append([start, *flags])
    nearest: list[str] = min(commands, key=len, default=[])
    return ' \\\n    '.join(nearest)


def row(stage: Stage) -> dict[str, Any]:
    """A row of the model card's table of stages."""
    config, device = stage.config, processor(stage.versions['device'])
    count = int(stage.versions['device_count'])
    return {
        'run': stage.name,
        'seed': config['seed'],
        'steps': stage.step,
        'batch': config['batch_size'],
        'size': config['data']['size'],
        'photographs': stage.data['records'],
        'seen': stage.step * config['batch_size'],
        'minutes': minutes(stage.lines, config['batch_size']),
        'precision': config['dtype'],
        'device': f'{count} x {device}' if count > 1 else device,
        'finished': stage.finished,
    }


def log(runs: Sequence[Stage]) -> list[dict[str, Any]]:
    """Log lines of all stages, numbered from 1, at most `LINES` of training and evaluation each."""
    kept = []
    for number, stage in enumerate(runs, start=1):
        scored = [line for line in stage.lines if 'eval/psnr' in line]
        trained = [line for line in stage.lines if 'eval/psnr' not in line]
        for line in sorted(thinned(trained) + thinned(scored), key=lambda line: line['step']):
            known = {k: v for k, v in line.items() if k != 'step' and v is not None}
            short = {k: float(f'{v:.6g}') for k, v in known.items()}
            kept.append({'stage': number, 'step': line['step'], **short})
    return kept


def thinned(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `LINES` of them, evenly spaced, with the first and the last."""
    count = min(len(lines), LINES)
    return [lines[i * (len(lines) - 1) // max(1, count - 1)] for i in range(count)]
