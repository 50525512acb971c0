import builtins
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data

from chromagan_jax.app import __main__ as command
from tests.app.server import environment, free_port, serving


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = command.main(['app', *argv])
        output = capsys.readouterr()
        return code, output.out if code == 0 else output.err

    yield run
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_help_has_the_commands_own_flags_first(run):
    code, text = run('--help')
    assert code == 0
    flags = [line.split()[0] for line in text.splitlines() if line.startswith('  --')]
    assert flags == [
        *('--host', '--port', '--workdir', '--checkpoint', '--max_megapixels', '--queue'),
    ]


@pytest.mark.parametrize(
    ('flag', 'sentence'),
    [
        ('--prot=1', 'did you mean --port'),
        ('--port=x', "--port must be a whole number from 1 to 65535, not 'x'."),
        ('--port=0', "--port must be a whole number from 1 to 65535, not '0'."),
        ('--queue=0', "--queue must be a whole number, 1 or more, not '0'."),
        ('--workdir=', '--workdir is empty'),
        ('--checkpoint=best', '--checkpoint chooses among those of a run'),
        ('photo.jpg', "'photo.jpg' is not a flag"),
        ('--host=no.such.host.invalid', 'cannot be used'),
    ],
)
def test_wrong_flags_end_it_with_one_sentence(run, flag, sentence):
    code, text = run(flag)
    assert code == 1
    assert sentence in text
    assert text.count('\n') == 1


def test_a_port_in_use_is_named(run):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        code, text = run(f'--port={port}')
    assert code == 1
    assert f'--port={port} cannot be used (Address already in use): choose another' in text


def test_without_the_extra_a_sentence_names_it(run, monkeypatch):
    original = builtins.__import__

    def without_gradio(name, *rest, **options):
        if name.split('.')[0] == 'gradio':
            raise ImportError(name='gradio')
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, '__import__', without_gradio)
    code, text = run(f'--port={free_port()}')
    assert code == 1
    assert "pip install 'chromagan_jax[app]'" in text
    assert text.count('\n') == 1


@pytest.mark.slow
def test_a_program_colorizes_through_the_page_and_nothing_is_left(tmp_path):
    client_lib = pytest.importorskip('gradio_client')
    gray = tmp_path / 'a.png'
    Image.fromarray(data.astronaut()[:256, :300]).convert('L').save(gray)
    with serving(tmp_path / 'served') as server:
        client = client_lib.Client(server.url, verbose=False, download_files=tmp_path / 'got')
        client.predict([client_lib.handle_file(gray)], api_name='/colorize')
        result, _ = client.predict('png', True, api_name='/download')
        pixels = np.asarray(Image.open(result)).astype(int)
        assert pixels.shape == (256, 300, 3)
        assert np.ptp(pixels, axis=2).mean() > 2
        second = subprocess.run(
            [sys.executable, '-m', 'chromagan_jax.app', f'--port={server.url[:-1].split(":")[-1]}'],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1
        assert 'choose another --port' in second.stderr
