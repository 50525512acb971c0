"""The post-processing options as parts of the page."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from chromagan_jax.config.fields import check_types
from chromagan_jax.config.postprocess import PostProcess

_WHITE_BALANCE = [
    ('As the network has it', 'none'),
    ('Gray on average', 'gray_world'),
    ('Neutral black and white', 'percentile'),
]
_METHODS = [('Non-local means', 'nlm'), ('Bilateral', 'bilateral')]


def build(default: PostProcess) -> dict[str, gr.components.Component]:
    """Makes a control for each option; its keys are the names of the options."""
    with gr.Group():
        made: dict[str, gr.components.Component] = {
            'saturation': gr.Slider(
                0, 3, default.saturation, step=0.05, label='Saturation', info='Strength of colours.'
            ),
            'contrast': gr.Slider(
                0, 1, default.contrast, step=0.05, label='Contrast', info='For faded prints.'
            ),
            'white_balance': gr.Dropdown(
                _WHITE_BALANCE,
                value=default.white_balance,
                label='White balance',
                info='Removes a tint from all colours.',
            ),
        }
    with gr.Accordion('More adjustments', open=False):
        made |= {
            'white_balance_strength': gr.Slider(
                0, 1, default.white_balance_strength, step=0.05, label='White balance: strength'
            ),
            'denoise_after': gr.Slider(
                0, 30, default.denoise_after, step=0.5, label='Smooth the colours'
            ),
            'denoise_method': gr.Dropdown(
                _METHODS, value=default.denoise_method, label='Smooth the colours: method'
            ),
            'clahe_clip': gr.Slider(1, 16, default.clahe_clip, step=0.5, label='Contrast: limit'),
            'clahe_tiles': gr.Slider(1, 16, default.clahe_tiles, step=1, label='Contrast: tiles'),
            'denoise_before': gr.Slider(
                0,
                30,
                default.denoise_before,
                step=0.5,
                label='Smooth the photograph',
                info='Removes grain before colorizing.',
            ),
        }
    return made


def post_process(default: PostProcess, names: Sequence[str], values: Sequence[Any]) -> PostProcess:
    """The options that the controls show.

    Raises:
        UserError: for a value out of range, which only a program sends.
    """
    given = dict(zip(names, values, strict=True))
    given['clahe_tiles'] = int(given['clahe_tiles'])
    post = replace(default, **given)
    check_types(post, '')
    return post
