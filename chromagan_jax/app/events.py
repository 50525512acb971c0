"""What happens when the page is used.

Work on photographs is done by one thread, in the order in which it was asked for. So memory is
that of one photograph, whatever the number of visitors.
"""

import hashlib
import html
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from chromagan_jax.app import controls, session
from chromagan_jax.app import photograph as photograph_lib
from chromagan_jax.app.photograph import FAILURES, Network
from chromagan_jax.app.session import Session
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.inference.hints import Hint

_AT_ONCE = 8  # requests that are begun; the others wait in the queue
# Saves the file of the hidden button, once the page knows it.
_SAVE = "() => { setTimeout(() => document.querySelector('#saver')?.click(), 200); }"


class Page(NamedTuple):
    """What all visitors share."""

    network: Network
    default: PostProcess
    folder: Path  # of the sessions
    examples: Sequence[Path]
    worker: ThreadPoolExecutor  # of one thread
    key: bytes  # of the names of the sessions' folders

    def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in the worker's thread."""
        return self.worker.submit(function, *arguments).result()

    def session_folder(self, request: gr.Request) -> Path:
        """A folder whose name only this process can tell."""
        name = str(request.session_hash).encode()
        return self.folder / hashlib.blake2b(name, key=self.key, digest_size=16).hexdigest()


class View(NamedTuple):
    """The parts of the page that show a session."""

    state: gr.State
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
        return controls.post_process(page.default, names, values)

    def add(
        uploads: Sequence[str], current: Session | None, request: gr.Request, *values: Any
    ) -> Iterator[list[Any]]:
        current = current or Session(page.session_folder(request))
        paths = [Path(upload) for upload in uploads or ()]
        for step in session.add_all(current, paths, page.network, post_of(values), page.work):
            yield [None, *show(page, step.session, post_of(values), step.problems)]

    def add_example(
        index: int, current: Session | None, request: gr.Request, *values: Any
    ) -> list[Any]:
        *_, last = add([str(page.examples[index])], current, request, *values)
        return last[1:]

    def adjust(current: Session | None, *values: Any) -> list[Any]:
        return update(page, current, post_of(values))

    def choose(current: Session | None, event: gr.SelectData, *values: Any) -> list[Any]:
        if current is None or not 0 <= event.index < len(current.photographs):
            return show(page, current, post_of(values))
        return update(page, current._replace(index=event.index), post_of(values))

    def reset() -> list[Any]:
        return [getattr(page.default, name) for name in names]

    drop, state = inputs.drop, view.state
    drop.upload(add, [drop, state, *controlled], [drop, *outputs], api_name='colorize', **queue)
    inputs.examples.click(add_example, [inputs.examples, state, *controlled], outputs, **private)
    view.gallery.select(choose, [state, *controlled], outputs, **private)
    changes = [control.input for control in controlled]
    gr.on(changes, adjust, [state, *controlled], outputs, **quiet)
    inputs.reset.click(reset, None, controlled, api_visibility='private').then(
        adjust, [state, *controlled], outputs, **quiet
    )
    _connect_hints(page, view, inputs, post_of, private)
    _connect_downloads(page, view, inputs, post_of, queue)

    def end(request: gr.Request) -> None:
        page.work(session.remove, page.session_folder(request))

    blocks.unload(end)


def _connect_hints(
    page: Page,
    view: View,
    inputs: Inputs,
    post_of: Callable[[Sequence[Any]], PostProcess],
    private: dict[str, Any],
) -> None:
    def point(current: Session | None, color: str, event: gr.SelectData, *values: Any) -> list[Any]:
        def with_point(hints: tuple[Hint, ...]) -> tuple[Hint, ...]:
            return (*hints, photograph_lib.hint_at(current.shown, *event.index, color))

        return update(page, current, post_of(values), with_point)

    def undo(current: Session | None, *values: Any) -> list[Any]:
        return update(page, current, post_of(values), lambda hints: hints[:-1])

    def clear(current: Session | None, *values: Any) -> list[Any]:
        return update(page, current, post_of(values), lambda hints: ())

    controlled, outputs = list(inputs.options.values()), list(view)
    view.canvas.select(point, [view.state, inputs.color, *controlled], outputs, **private)
    inputs.undo.click(undo, [view.state, *controlled], outputs, **private)
    inputs.clear.click(clear, [view.state, *controlled], outputs, **private)


def _connect_downloads(
    page: Page,
    view: View,
    inputs: Inputs,
    post_of: Callable[[Sequence[Any]], PostProcess],
    queue: dict[str, Any],
) -> None:
    def save(current: Session | None, kind: str, keep: bool, *values: Any) -> list[Any]:
        return saved(page, current, kind, keep, post_of(values), session.save)

    def save_all(current: Session | None, kind: str, keep: bool, *values: Any) -> list[Any]:
        return saved(page, current, kind, keep, post_of(values), session.save_all)

    given = [view.state, inputs.kind, inputs.keep, *inputs.options.values()]
    for button, function, name in (
        (view.save, save, 'download'),
        (view.save_all, save_all, 'download_all'),
    ):
        outputs = [inputs.saver, view.status]
        button.click(function, given, outputs, api_name=name, **queue).success(
            None, None, None, js=_SAVE
        )


def saved(
    page: Page,
    current: Session | None,
    kind: str,
    keep: bool,
    post: PostProcess,
    write: Callable[..., session.Saved],
) -> list[Any]:
    """The hidden download button with a file, and the status.

    Raises:
        gr.Error: nothing could be written.
    """
    if current is None or current.shown is None:
        raise gr.Error('Add a photograph first.', print_exception=False)
    try:
        done = write(current, kind, page.network, post, keep, page.work)
    except FAILURES as error:
        raise gr.Error(photograph_lib.reason(error), print_exception=False) from error
    return [str(done.path), status(done.problems)]


def update(
    page: Page,
    current: Session | None,
    post: PostProcess,
    change: Callable[[tuple[Hint, ...]], tuple[Hint, ...]] = lambda hints: hints,
) -> list[Any]:
    """`View` of a session with other options or hints.

    The network runs again only if hints or `denoise_before` are others.
    """
    if current is None or current.shown is None:
        return show(page, current, post)
    try:
        photograph = current.shown
        hints = change(photograph.hints)
        if hints != photograph.hints or post.denoise_before != photograph.denoised:
            photograph = page.work(
                photograph_lib.colorize_again, photograph, hints, page.network, post
            )
        return show(page, current.with_shown(photograph), post)
    except FAILURES as error:
        return [
            gr.skip(),
            status([photograph_lib.reason(error)]),
            *[gr.skip()] * (len(View._fields) - 2),
        ]


def show(
    page: Page, current: Session | None, post: PostProcess, problems: Sequence[str] = ()
) -> list[Any]:
    """Values of `View`."""
    if current is None or current.shown is None:
        return [current, status(problems), *[gr.skip()] * (len(View._fields) - 2)]
    photograph = current.shown
    after = page.work(photograph_lib.preview, photograph, post)
    several = len(current.photographs) > 1
    size = f'{photograph.width} × {photograph.height} px'
    lines = [f'{photograph.source.name} · {size}', *photograph.notes]
    return [
        current,
        status(problems),
        (str(photograph.before), str(after)),
        f'<div class="caption">{"<br>".join(map(html.escape, lines))}</div>',
        gr.Button('Download this photograph' if several else 'Download', interactive=True),
        gr.Button(visible=several),
        gr.Gallery([str(p.thumbnail) for p in current.photographs], visible=several),
        str(photograph_lib.draw_points(photograph)) if page.network.takes_hints else gr.skip(),
    ]


def status(problems: Sequence[str]) -> gr.HTML:
    """The part of the page with sentences about what went wrong."""
    lines = ''.join(f'<div>{html.escape(problem)}</div>' for problem in problems)
    return gr.HTML(f'<div class="problems" role="alert">{lines}</div>', visible=bool(problems))
