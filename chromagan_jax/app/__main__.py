"""Shows a page in the browser that colorizes photographs.

    python -m chromagan_jax.app
    python -m chromagan_jax.app --workdir=runs/mine --port=8000

The first form uses the released weights, the second those of a run. The page answers only to this
computer unless --host is another address. Ctrl-C or SIGTERM ends it.

Exit codes: 75 ended by Ctrl-C or SIGTERM; 1 user error, reported in one sentence.
"""

import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import skimage
from absl import flags, logging
from PIL import Image

from chromagan_jax import sharding
from chromagan_jax.app import photograph
from chromagan_jax.app.photograph import Network
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.errors import EXIT_RESTART, UserError
from chromagan_jax.inference import options
from chromagan_jax.inference.predictor import load, make_predict
from chromagan_jax.utils import cli

_HELP = {
    'host': 'Address to listen on; 0.0.0.0: all of this computer (127.0.0.1).',
    'port': 'Port to answer at (7860).',
    'workdir': 'Run whose network colorizes (the released weights).',
    'checkpoint': 'newest, best, or a step of --workdir (newest).',
    'max_megapixels': 'Largest photograph; memory: 20 bytes a pixel, 32 for 16 bits (100).',
    'queue': 'Largest number of waiting requests; others are asked to try again (64).',
}
_SAMPLES = ('camera.png', 'coffee.png', 'chelsea.png')  # of scikit-image


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    values = make_flags()
    if cli.asks_for_help(argv):
        print(f'{__doc__}\nFlags:\n{cli.flag_lines(_HELP.items())}')
        return 0
    try:
        with _stopped() as stopped:
            if stray := cli.parse(values, argv):
                raise UserError(f'{stray[0]!r} is not a flag: photographs are added on the page.')
            _check(values)
            with tempfile.TemporaryDirectory(
                prefix='chromagan_jax-', ignore_cleanup_errors=True
            ) as folder:
                return _serve(values, Path(folder), stopped)
    except UserError as error:
        cli.print_error(str(error))
        return 1


def make_flags() -> flags.FlagValues:
    """The flags of the command, apart from absl's global ones."""
    values = flags.FlagValues()
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_string('host', '127.0.0.1', _HELP['host'], **own)
    flags.DEFINE_integer('port', 7860, _HELP['port'], 1, 65535, **own)
    flags.DEFINE_string('workdir', None, _HELP['workdir'], **own)
    flags.DEFINE_string('checkpoint', 'newest', _HELP['checkpoint'], **own)
    flags.DEFINE_integer('max_megapixels', 100, _HELP['max_megapixels'], 1, **own)
    flags.DEFINE_integer('queue', 64, _HELP['queue'], 1, **own)
    return values


def _check(values: flags.FlagValues) -> None:
    """Raises UserError for flags that do not fit, a port in use, and a missing package."""
    options.check_network(values)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            values.host, values.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f'--host={values.host} --port={values.port} cannot be used ({error.strerror}): choose '
            'another --port or --host.'
        ) from error


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    event = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: event.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(values: flags.FlagValues, folder: Path, stopped: threading.Event) -> int:
    """Loads the network and shows the page until `stopped`; all files are below `folder`."""
    os.environ |= {  # read when Gradio is imported
        'GRADIO_ANALYTICS_ENABLED': 'False',
        'GRADIO_TEMP_DIR': str(folder),
        'HF_HUB_DISABLE_TELEMETRY': '1',
    }
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'The page needs the package {error.name}: install the extra with '
            "`pip install 'chromagan_jax[app]'`."
        ) from error
    from chromagan_jax.app import page as page_lib
    from chromagan_jax.app.events import Page

    print('loading the network ...', file=sys.stderr, flush=True)
    network, post, title = _network(values)
    examples = _examples(folder / 'page' / 'examples')
    welcome = photograph.add(examples[0], folder / 'page' / 'welcome', network, post)
    after = photograph.preview(welcome, post)
    with ThreadPoolExecutor(1) as worker:
        page = Page(network, post, folder, examples, (str(welcome.before), str(after)), worker, {})
        blocks = page_lib.build(page, title).queue(max_size=values.queue)
        page_lib.launch(blocks, values.host, values.port, folder)
        try:
            shown = values.host if values.host not in ('0.0.0.0', '::') else 'localhost'
            print(
                f'{title}: the page is at http://{shown}:{values.port} (Ctrl-C ends it)',
                file=sys.stderr,
                flush=True,
            )
            stopped.wait()
        finally:
            blocks.close(verbose=False)
            worker.shutdown(cancel_futures=True)
    print('ended', file=sys.stderr)
    return EXIT_RESTART


def _network(values: flags.FlagValues) -> tuple[Network, PostProcess, str]:
    """Loads the network; returns it, the options of its config and its name."""
    sharding.disable_async_cpu_dispatch()
    trained = load(values.workdir, values.checkpoint)
    post, hints = trained.config.colorize, bool(getattr(trained.generator, 'hints', False))
    predict = make_predict(
        trained.generator, trained.variables, (trained.size,), 1, post.sample_noise, hints
    )
    sample = 1 if post.sample_noise else None
    network = Network(predict, trained.size, values.max_megapixels * 10**6, sample, hints)
    return network, post, f'{trained.title}, step {trained.step}'


def _examples(folder: Path) -> list[Path]:
    """Writes sample photographs of scikit-image in gray; returns their paths."""
    folder.mkdir(parents=True)
    paths = []
    for name in _SAMPLES:
        path = folder / f'{name.split(".")[0]}.jpg'
        with Image.open(Path(skimage.__file__).parent / 'data' / name) as image:
            image.convert('L').save(path, quality=92)
        paths.append(path)
    return paths


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings('ignore', module=r'PIL\.')  # of damage that it passes over
    sys.exit(main(sys.argv))
