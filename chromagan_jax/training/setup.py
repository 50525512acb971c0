"""How a run begins: what it says, the workdir that it claims, the state that it starts from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from chromagan_jax import config as config_lib
from chromagan_jax import models, sharding
from chromagan_jax.data.inputs import NOT_HELD_OUT, is_held_out
from chromagan_jax.data.sources import Source
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints as checkpoint_lib
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.state import GanState, System
from chromagan_jax.utils import files, writers

PyTree = Any


def claim_workdir(config: Any, workdir: Path, source: Source, resume: bool) -> None:
    """Writes config.json, after checking that a run which resumes is the one that it describes.

    Raises:
        UserError: naming the field, or the data, that differs.
    """
    data = {'records': len(source), 'fingerprint': source.fingerprint}
    if resume:
        run = checkpoint_lib.read_run(workdir)
        config_lib.check_resume(config, run['config'])
        if run['data'] != data:
            raise UserError(
                f'data.source has other files than when {workdir} was started '
                f'({data["records"]} records; {run["data"]["records"]} then): set it back, or '
                'start in another --workdir with init_from.'
            )
    if jax.process_index() == 0:
        files.write_json(
            workdir / 'config.json',
            {'config': config.to_dict(), 'data': data, 'versions': writers.versions()},
        )


def starting_state(
    config: Any,
    system: System,
    mesh: Mesh,
    checkpoints: checkpoint_lib.Manager,
    pretrained: Mapping[str, PyTree],
    say: Callable[[str], None],
) -> GanState:
    """The newest checkpoint's state, or a new one, with weights from `init_from` or `pretrained`.

    `pretrained` is what `models.load_pretrained` returns.
    """
    abstract = state_lib.abstract_state(system, config, mesh)
    state = checkpoint_lib.restore_newest(checkpoints, abstract, say)
    if state is not None:
        say(f'resumed from step {int(state.step)}')
        return state
    state = state_lib.create_state(system, config, mesh)
    if config.init_from:
        say(f'starts from the weights in {config.init_from}')
        return checkpoint_lib.load_weights(config, Path(config.init_from), state, mesh)
    for field, network in models.PRETRAINED.items():
        if network.BACKBONE not in state.generator.params:
            continue
        if field in pretrained:
            say(f"the generator's {network.TITLE} starts from {config[field]}")
            state = state_lib.with_backbone(state, field, pretrained[field])
        else:
            say(f"the generator's {network.TITLE} starts from scratch: {field} names no file")
    return state


def place_teacher(system: System, vgg16: PyTree | None, mesh: Mesh) -> PyTree | None:
    """VGG16 on the devices, if the system has it for a teacher."""
    if system.teacher is None or vgg16 is None:
        return None
    return jax.device_put(vgg16, sharding.state_shardings(vgg16, mesh))


def introduce(config: Any, workdir: Path, source: Source) -> Callable[[str], None]:
    """Says where the run writes, what it reads and what that is worth; returns how to say more."""
    say = writers.announcer()
    say(f'writes to {workdir.absolute()}')
    say(f'trains on {len(source)} photographs of {config.data.source}')
    if config.data.source == 'sample':
        say('the built-in sample is a handful of photographs: they are memorised, not learned from')
    if config.eval_every and not is_held_out(config):
        say(NOT_HELD_OUT)
    if config.objective.classes:
        say(
            {
                'teacher': f'the class head learns from VGG16 in {config.vgg16}',
                'labels': 'the class head learns from the labels of the data',
                'none': 'the class term is off, and the class head left out: set vgg16 to a file '
                "of VGG16's weights, or data.labels",
            }[models.class_targets(config)]
        )
    return say
