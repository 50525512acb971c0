"""What is on the page, and how it is served."""

import contextlib
import shutil
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chromagan_jax.app import controls, events
from chromagan_jax.app.events import Inputs, Page, View
from chromagan_jax.errors import UserError

_TITLE = 'Colorize old photographs'
_INTRO = (
    f'# {_TITLE}\nAdd black-and-white photographs, compare, adjust, and download them in colour at '
    'full resolution. A machine guesses the colours: they may be wrong.'
)
CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
.problems { color: #9a3412; background: #fff7ed; border-left: 4px solid #f97316;
  padding: .5rem 1rem; border-radius: 4px; overflow-wrap: anywhere; }
.dark .problems { color: #fed7aa; background: #431407; }
#gallery .grid-wrap { min-height: 0; height: auto; }
#work { display: grid; grid-template: "add result" auto "adjust result" 1fr / 2fr 5fr; }
#add { grid-area: add; } #adjust { grid-area: adjust; } #result { grid-area: result; }
@media (max-width: 760px) {
  #work { grid-template: "add" "result" "adjust" / minmax(0, 1fr); }
  #compare, #compare .slider-wrap, #compare .container { height: 84vw !important; }
}
.caption { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
"""
_KINDS = [
    ('PNG (no loss)', 'png'),
    ('JPEG (small)', 'jpg'),
    ('TIFF (no loss)', 'tif'),
    ('WebP (small)', 'webp'),
    ('As the photograph', 'same'),
]
_MAX_FILE = '512mb'  # of an upload
_LEAST_FREE = 2**30  # bytes on the disk, below which no uploads are taken
_ORPHANS = (60, 1800)  # s: how often, and after which time, files outside sessions are removed


def theme() -> gr.Theme:
    """One whose fonts are those of the visitor's system."""
    fonts = ['system-ui', 'sans-serif']
    return gr.themes.Soft(primary_hue='orange', font=fonts, font_mono=['monospace'])


def build(page: Page, title: str) -> gr.Blocks:
    """The page. `title` names the network."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=_ORPHANS) as blocks:
        gr.Markdown(_INTRO)
        with gr.Row(elem_id='work'):
            with gr.Column(elem_id='add', min_width=0):
                drop = gr.File(label='Your photographs', file_count='multiple', height=190)
                examples = gr.Dataset(
                    label='None at hand? Click one of these',
                    components=[gr.Image(type='filepath', visible=False)],
                    samples=[[str(path)] for path in page.examples],
                    type='index',
                    visible=bool(page.examples),
                )
            with gr.Column(elem_id='adjust', min_width=0):
                options = controls.build(page.default)
                reset = gr.Button('Reset the adjustments', size='sm')
            with gr.Column(elem_id='result', min_width=0):
                status = gr.HTML(visible=False)
                slider = gr.ImageSlider(
                    page.welcome,
                    elem_id='compare',
                    show_label=False,
                    interactive=False,
                    type='filepath',
                    height=560,
                    max_height=560,
                    buttons=['fullscreen'],
                )
                caption = gr.HTML(
                    '<div class="caption">An example. Add your photographs on the left; drag the '
                    'line to compare.</div>'
                )
                with gr.Row(equal_height=True):
                    kind = gr.Dropdown(_KINDS, value='png', label='File format')
                    with gr.Column(min_width=220):
                        keep = gr.Checkbox(True, label='Keep date, place and other metadata')
                        deep = gr.Checkbox(False, label='16 bits (PNG and TIFF, of a 16-bit scan)')
                    save = gr.Button('Download', variant='primary', interactive=False)
                    save_all = gr.Button('Download all (zip)', visible=False)
                saver = gr.DownloadButton(elem_id='saver', visible='hidden')
                gallery = _gallery()
                canvas, color, undo, clear = _hints(page.network.takes_hints)
        gr.Markdown(
            f'Colours by {title}. Closing or reloading this page deletes your photographs here.'
        )
        view = View(status, slider, caption, save, save_all, gallery, canvas)
        inputs = Inputs(drop, examples, options, reset, kind, keep, deep, saver, color, undo, clear)
        events.connect(page, blocks, view, inputs)
    return blocks


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        elem_id='gallery',
        show_label=False,
        columns=5,
        fit_columns=False,
        height='auto',
        object_fit='cover',
        allow_preview=False,
        interactive=False,
        visible=False,
        buttons=[],
    )


def _hints(visible: bool) -> tuple[gr.Image, gr.ColorPicker, gr.Button, gr.Button]:
    with gr.Accordion('Choose colours', visible=visible):
        gr.Markdown('You know a colour? Pick it, then click where the photograph has it.')
        color = gr.ColorPicker('#7a2e2e', label='Colour')
        canvas = gr.Image(
            label='Click here', interactive=False, type='filepath', buttons=[], height=420
        )
        with gr.Row():
            undo = gr.Button('Take back the last point', size='sm')
            clear = gr.Button('Remove all points', size='sm')
    return canvas, color, undo, clear


def launch(blocks: gr.Blocks, host: str, port: int, folder: Path) -> None:
    """Serves a page; returns at once. `folder` is that of the uploads.

    Raises:
        UserError: the port cannot be used.
    """
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            max_file_size=_MAX_FILE,
            app_kwargs={'middleware': [Middleware(_refusing, folder)]},
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            run_history=False,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme(),
            css=CSS,
        )
    except OSError as error:
        raise UserError(f'Port {port} cannot be used: choose another --port.') from error


def _refusing(app: ASGIApp, folder: Path) -> ASGIApp:
    """Refuses uploads while the disk is nearly full."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        upload = scope['type'] == 'http' and scope['path'].endswith('/upload')
        if upload and shutil.disk_usage(folder).free < _LEAST_FREE:
            full = PlainTextResponse('The server has no room for now: try again later.', 507)
            await full(scope, receive, send)
        else:
            with contextlib.suppress(
                ClientDisconnect
            ):  # a visitor left: nobody waits for an answer
                await app(scope, receive, send)

    return answer
