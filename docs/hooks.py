"""Hooks of mkdocs.yml: files outside docs/ and the notebook become pages, with links to them."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {  # in the repository -> on the site
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'chromagan_jax/weights/MODEL_CARD.md': 'model_card.md',
    'docs/quickstart.ipynb': 'quickstart.md',
}
_LINK = re.compile(r'(?<=\]\()(?!https?:|#)([^)#\s]+)')


def on_files(files: Files, config: Any) -> Files:
    """Adds `PAGES`, with links that are relative to docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        if source.endswith('.ipynb'):
            text = _markdown(text)
        folder = PurePosixPath(source).parent
        text = _LINK.sub(lambda link, folder=folder: _on_site(folder / link[0]), text)
        files.append(File.generated(config, page, content=text))
    return files


def _markdown(notebook: str) -> str:
    """The cells of a notebook without outputs, as Markdown."""
    cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in json.loads(notebook)['cells']]
    return '\n\n'.join(
        text if kind == 'markdown' else f'```python\n{text}\n```' for kind, text in cells
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leads links from docs/ to files outside it to their pages."""
    return _LINK.sub(
        lambda link: _on_site(PurePosixPath(link[0][3:])) if link[0].startswith('../') else link[0],
        markdown,
    )


def _on_site(path: PurePosixPath) -> str:
    """The link to a file of the repository, from a page in docs/."""
    name = str(path)
    return PAGES.get(name) or name.removeprefix('docs/')
