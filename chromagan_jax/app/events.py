"""What happens when the page is used.

Work on photographs is done by one thread, in the order in which it was asked for. So memory is
that of one photograph, whatever the number of visitors.
"""

import html
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from chromagan_jax.app import controls, session
from chromagan_jax.app import photograph as photograph_lib
from chromagan_jax.app.photograph import FAILURES, Network, Photograph
from chromagan_jax.app.session import Session
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.errors import UserError
from chromagan_jax.inference.encode import Encoding
from chromagan_jax.inference.hints import Hint

_AT_ONCE = 8  # requests that are begun; the others wait in the queue
# Saves the file of the hidden button, once the page knows it.
_SAVE = "() => { setTimeout(() => document.querySelector('#saver')?.click(), 200); }"


class Page(NamedTuple):
    """What all visitors share."""

    network: Network
    default: PostProcess
    folder: Path  # of all files
    examples: Sequence[Path]  # gray photographs
    welcome: tuple[str, str]  # before and after, shown at first
    worker: ThreadPoolExecutor  # of one thread
    sessions: dict[str, Session]

    def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in the worker's thread."""
        return self.worker.submit(function, *arguments).result()

    def session(self, request: gr.Request) -> Session:
        """That of a visitor. Nobody can guess its folder."""
        new = Session(self.folder / 'page' / 'sessions' / secrets.token_hex(16))
        current = self.sessions.setdefault(str(request.session_hash), new)
        current.used = time.monotonic()
        return current


class View(NamedTuple):
    """The parts of the page that show a session."""

    status: gr.HTML
    slider: gr.ImageSlider
    caption: gr.HTML
    save: gr.Button
    save_all: gr.Button
    gallery: gr.Gallery
    canvas: gr.Image


class Inputs(NamedTuple):
    """The parts of the page that a visitor uses, apart from those of `View`."""

    drop: gr.File
    examples: gr.Dataset
    options: dict[str, Any]
    reset: gr.Button
    kind: gr.Dropdown
    keep: gr.Checkbox
    deep: gr.Checkbox
    saver: gr.DownloadButton
    color: gr.ColorPicker
    undo: gr.Button
    clear: gr.Button


def connect(page: Page, blocks: gr.Blocks, view: View, inputs: Inputs) -> None:
    """Connects the parts of the page with what they do."""
    names, controlled = list(inputs.options), list(inputs.options.values())
    queue: dict[str, Any] = {'concurrency_limit': _AT_ONCE, 'concurrency_id': 'page'}
    private = queue | {'api_visibility': 'private'}
    quiet = private | {'show_progress': 'hidden', 'trigger_mode': 'always_last'}
    outputs = list(view)

    def post_of(values: Sequence[Any]) -> PostProcess:
        try:
            return controls.post_process(page.default, names, values)
        except (UserError, TypeError, ValueError) as error:  # a program, not the page, sent them
            raise gr.Error(str(error), print_exception=False) from error

    def add(uploads: Sequence[str], request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        current, post = page.session(request), post_of(values)
        page.work(session.remove_idle, page.sessions, page.folder)
        paths = [Path(upload) for upload in uploads or ()]
        for problems in session.add_all(current, paths, page.network, post, page.work):
            yield [None, *show(page, current, post, problems)]

    def add_example(index: int, request: gr.Request, *values: Any) -> list[Any]:
        *_, last = add([str(page.examples[index])], request, *values)
        return last[1:]

    def adjust(request: gr.Request, *values: Any) -> list[Any]:
        return update(page, page.session(request), post_of(values))

    def choose(request: gr.Request, event: gr.SelectData, *values: Any) -> list[Any]:
        current = page.session(request)
        if 0 <= event.index < len(current.photographs):
            current.index = event.index
        return update(page, current, post_of(values))

    def reset() -> list[Any]:
        return [getattr(page.default, name) for name in names]

    def end(request: gr.Request) -> None:
        current = page.sessions.pop(str(request.session_hash), None)
        if current is not None:
            page.work(session.remove, current.folder, page.folder)

    drop = inputs.drop
    drop.upload(add, [drop, *controlled], [drop, *outputs], api_name='colorize', **queue)
    inputs.examples.click(add_example, [inputs.examples, *controlled], outputs, **private)
    view.gallery.select(choose, controlled, outputs, **private)
    gr.on([control.input for control in controlled], adjust, controlled, outputs, **quiet)
    inputs.reset.click(reset, None, controlled, api_visibility='private').then(
        adjust, controlled, outputs, **quiet
    )
    _connect_hints(page, view, inputs, post_of, private)
    _connect_downloads(page, view, inputs, post_of, queue)
    blocks.unload(end)


def _connect_hints(
    page: Page,
    view: View,
    inputs: Inputs,
    post_of: Callable[[Sequence[Any]], PostProcess],
    private: dict[str, Any],
) -> None:
    def point(color: str, request: gr.Request, event: gr.SelectData, *values: Any) -> list[Any]:
        current = page.session(request)

        def with_point(one: Photograph) -> tuple[Hint, ...]:
            x, y = event.index
            return (*one.hints, photograph_lib.hint_at(one, x, y, color))

        return update(page, current, post_of(values), with_point)

    def undo(request: gr.Request, *values: Any) -> list[Any]:
        return update(page, page.session(request), post_of(values), lambda one: one.hints[:-1])

    def clear(request: gr.Request, *values: Any) -> list[Any]:
        return update(page, page.session(request), post_of(values), lambda one: ())

    controlled, outputs = list(inputs.options.values()), list(view)
    view.canvas.select(point, [inputs.color, *controlled], outputs, **private)
    inputs.undo.click(undo, controlled, outputs, **private)
    inputs.clear.click(clear, controlled, outputs, **private)


def _connect_downloads(
    page: Page,
    view: View,
    inputs: Inputs,
    post_of: Callable[[Sequence[Any]], PostProcess],
    queue: dict[str, Any],
) -> None:
    def writing(write: Callable[..., session.Saved]) -> Callable[..., list[Any]]:
        def handle(
            kind: str, keep: bool, deep: bool, request: gr.Request, *values: Any
        ) -> list[Any]:
            encoding = Encoding(depth=16 if deep else 8, metadata=keep)
            return saved(page, page.session(request), kind, encoding, post_of(values), write)

        return handle

    given = [inputs.kind, inputs.keep, inputs.deep, *inputs.options.values()]
    for button, function, name in (
        (view.save, writing(session.save), 'download'),
        (view.save_all, writing(session.save_all), 'download_all'),
    ):
        event = button.click(function, given, [inputs.saver, view.status], api_name=name, **queue)
        event.success(None, None, None, js=_SAVE)


def saved(
    page: Page,
    current: Session,
    kind: str,
    encoding: Encoding,
    post: PostProcess,
    write: Callable[..., session.Saved],
) -> list[Any]:
    """The hidden download button with a file, and the status.

    Raises:
        gr.Error: nothing could be written.
    """
    if current.shown is None:
        raise gr.Error('Add a photograph first.', print_exception=False)
    try:
        with current.lock:
            done = write(current, kind, page.network, post, encoding, page.work)
    except FAILURES as error:
        raise gr.Error(photograph_lib.reason(error), print_exception=False) from error
    return [str(done.path), status(done.problems)]


def update(
    page: Page,
    current: Session,
    post: PostProcess,
    change: Callable[[Photograph], tuple[Hint, ...]] = lambda one: one.hints,
) -> list[Any]:
    """`View` of a session with other options or hints.

    The network runs again only if hints or `denoise_before` are others.
    """
    try:
        with current.lock:
            photograph = current.shown
            if photograph is None:
                return show(page, current, post)
            hints = change(photograph)
            if hints != photograph.hints or post.denoise_before != photograph.denoised:
                args = photograph, hints, page.network, post
                current.replace(photograph, page.work(photograph_lib.colorize_again, *args))
            return show(page, current, post)
    except FAILURES as error:
        return [status([photograph_lib.reason(error)]), *[gr.skip()] * (len(View._fields) - 1)]


def show(
    page: Page, current: Session, post: PostProcess, problems: Sequence[str] = ()
) -> list[Any]:
    """Values of `View`."""
    if current.shown is None:
        return [status(problems), *[gr.skip()] * (len(View._fields) - 1)]
    photograph = current.shown
    after = page.work(photograph_lib.preview, photograph, post)
    several = len(current.photographs) > 1
    size = f'{photograph.width} × {photograph.height} px'
    lines = [f'{photograph.source.name} · {size}', *photograph.notes]
    if several:
        lines.append('Click a photograph below to show it. Adjustments apply to all.')
    return [
        status(problems),
        (str(photograph.before), str(after)),
        f'<div class="caption">{"<br>".join(map(html.escape, lines))}</div>',
        gr.Button(interactive=True),
        gr.Button(visible=several),
        gr.Gallery([str(p.thumbnail) for p in current.photographs], visible=several),
        str(photograph_lib.draw_points(photograph)) if page.network.takes_hints else gr.skip(),
    ]


def status(problems: Sequence[str]) -> gr.HTML:
    """The part of the page with sentences about what went wrong."""
    lines = ''.join(f'<div>{html.escape(problem)}</div>' for problem in problems)
    return gr.HTML(f'<div class="problems" role="alert">{lines}</div>', visible=bool(problems))
