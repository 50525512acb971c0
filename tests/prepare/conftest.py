"""A few photographs, and the set that is prepared from them."""

import io

import pytest
import skimage.data
from PIL import Image

from chromagan_jax.prepare.__main__ import main


@pytest.fixture(scope='session')
def beam():
    """Skips tests that prepare something if Beam is missing."""
    pytest.importorskip('apache_beam', reason='needs Beam: pip install -e ".[prepare]"')


@pytest.fixture(scope='session')
def jpegs():
    """Six photographs as JPEG files, of which no two are alike."""
    found = []
    for name in ('astronaut', 'coffee', 'rocket'):
        image = Image.fromarray(getattr(skimage.data, name)())
        for left in (0, 200):
            buffer = io.BytesIO()
            image.crop((left, 0, left + 200, 160)).save(buffer, 'JPEG', quality=90)
            found.append(buffer.getvalue())
    return found


@pytest.fixture(scope='session')
def few(jpegs, tmp_path_factory):
    """A folder of them."""
    folder = tmp_path_factory.mktemp('few')
    for index, content in enumerate(jpegs):
        (folder / f'{index}.jpg').write_bytes(content)
    return folder


@pytest.fixture
def call(beam, few, capsys):
    """The command on these photographs, or others: (exit code, what it said)."""

    def run(*arguments, pile=few):
        code = main(['prepare', '--workers=1', f'--input={pile}', *map(str, arguments)])
        return code, capsys.readouterr().err

    return run


@pytest.fixture(scope='session')
def made(beam, few, tmp_path_factory):
    """The data set of these photographs."""
    output = tmp_path_factory.mktemp('made') / 'set'
    assert main(['prepare', '--workers=1', f'--input={few}', f'--output={output}']) == 0
    return output


@pytest.fixture(scope='session')
def contents():
    """A function that returns the files below a folder, as path -> bytes."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
