"""The notebook of the docs: it runs, and is stored without outputs."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'docs/quickstart.ipynb'


def test_the_notebook_is_stored_without_outputs():
    # They would be out of date without a sign of it, and unreadable in a diff.
    cells = json.loads(NOTEBOOK.read_text())['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    assert code
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_photographs_curves_and_samples(tmp_path):
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('matplotlib')
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}}
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    flags = '--xla_backend_optimization_level=0'  # and one device
    client.execute(env=os.environ | {'PYTHONPATH': path, 'XLA_FLAGS': flags})

    images = [
        output
        for cell in notebook.cells
        for output in cell.get('outputs', [])
        if 'image/png' in output.get('data', {})
    ]
    assert len(images) == 6
    written = ''.join(
        output.text
        for cell in notebook.cells
        for output in cell.get('outputs', [])
        if output.output_type == 'stream'
    )
    assert 'step 100/100' in written
    assert 'WARNING' not in written
