"""Locations of files: local paths, and buckets as gs://BUCKET/FOLDER and s3://BUCKET/FOLDER.

A local location is a `pathlib.Path`. A bucket is an `etils.epath.Path`, which has the same methods
and reads and writes through fsspec. etils, fsspec, gcsfs and s3fs are imported only for buckets.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from chromagan_jax.errors import UserError, is_outage, is_refusal

# Scheme of a bucket -> package that fsspec needs for it, extra that installs it, and the fix if
# access is refused.
_SCHEMES = {
    'gs': ('gcsfs', 'gcs', 'log in with `gcloud auth application-default login`'),
    's3': ('s3fs', 's3', 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`'),
}
_PREFIXES = tuple(f'{scheme}://' for scheme in _SCHEMES)


def is_bucket(location: str | os.PathLike[str]) -> bool:
    """Whether a location is in a bucket."""
    return os.fspath(location).startswith(_PREFIXES)


def expand(path: str | Path) -> Path:
    """A path, with a leading `~` replaced by the home folder; raises UserError without one."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f'{path} cannot be found ({error}): write the whole path, without ~.'
        ) from error


def as_path(location: str) -> Path:
    """The path of a location.

    Raises:
        UserError: for another URL, or if the package for this kind of bucket is not installed.
    """
    scheme, separator, rest = location.partition('://')
    if not separator:
        return expand(location)
    if scheme not in _SCHEMES or not rest.strip('/'):
        raise UserError(
            f'{location} is not a location: name a folder, gs://BUCKET/FOLDER or '
            's3://BUCKET/FOLDER.'
        )
    package, extra, _ = _SCHEMES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f'{location} needs the package {package}: install it with '
            f"`pip install 'chromagan_jax[{extra}]'`."
        )
    return cast(Path, _epath()(location))


@functools.cache
def _epath() -> Any:
    """The class of paths in buckets, set up for fsspec."""
    os.environ.setdefault('EPATH_USE_TF', 'false')  # etils prefers TensorFlow if it is installed
    import fsspec
    from etils import epath

    for library in ('gcsfs', 'fsspec', 's3fs', 'aiobotocore'):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # they log what they also raise
    for scheme in ('gs', 'gcs', 's3'):
        # TensorStore and other processes write too, so a cached listing would be wrong.
        fsspec.config.conf.setdefault(scheme, {})['use_listings_cache'] = False
    return epath.Path


def absolute(path: Path) -> Path:
    """The absolute path; that of a bucket already is."""
    return path if is_bucket(path) else path.absolute()


def filesystem(location: str | os.PathLike[str]) -> Any:
    """The file system of a bucket, by fsspec. Raises UserError as `as_path` does."""
    import fsspec

    text = os.fspath(location)
    as_path(text)
    return fsspec.core.url_to_fs(text)[0]


def read(path: Path) -> bytes | None:
    """The content of a file; None if there is no such file.

    Raises:
        UserError: if access to a bucket is refused.
    """
    try:
        with access(path, 'read'):
            return path.read_bytes()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def access(path: str | os.PathLike[str], done: str) -> Iterator[None]:
    """Raises UserError if a bucket refuses access to `path`. Other errors pass.

    Args:
        path: location of a file.
        done: 'read' or 'written', for the sentence.
    """
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # of aiohttp, google.auth and botocore, which have no common base
        if not is_bucket(path) or is_outage(error) or not is_refusal(error):
            raise
        location = os.fspath(path)
        scheme = location.partition('://')[0]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip('.')
        raise UserError(
            f'{location} cannot be {done} ({reason}): {_SCHEMES[scheme][2]}, and check the '
            'permissions of that account.'
        ) from error


def move(source: Path, target: Path) -> None:
    """Moves a checkpoint.

    In a bucket its objects are copied, and then removed, the mark of a complete checkpoint first.
    So an interruption leaves the complete checkpoint in one of both places.
    """
    if not is_bucket(source):
        source.rename(target)
        return
    files = filesystem(source)
    with access(source, 'written'):
        files.copy(f'{source}/', f'{target}/', recursive=True)
        (source / 'commit_success.txt').unlink(missing_ok=True)
        files.rm(os.fspath(source), recursive=True)


@functools.cache
def local_stand_in(folder: Path) -> Path:
    """The folder itself, or a temporary one for a library that cannot write to a bucket."""
    return Path(tempfile.mkdtemp(prefix='chromagan_jax.')) if is_bucket(folder) else folder


def upload(folder: Path) -> None:
    """Copies the files of `local_stand_in(folder)` to a bucket, and removes them here."""
    if is_bucket(folder):
        local = local_stand_in(folder)
        with access(folder, 'written'):
            filesystem(folder).put(f'{local}/', f'{folder}/', recursive=True)
        shutil.rmtree(local)
        local_stand_in.cache_clear()
