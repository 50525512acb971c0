"""Checkpoints in s3://, which Orbax does not write by itself.

Orbax knows local files and gs://. TensorStore, which it writes arrays with, also knows s3://.
`enable` replaces the two functions of Orbax that tell a bucket from a folder. They are private, so
the extra [s3] bounds the version of orbax-checkpoint.
"""

import functools
import os
import pathlib
from typing import Any

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

_S3, _GS = 's3://', 'gs://'


@functools.cache
def enable() -> None:
    """Makes Orbax treat s3:// as it treats gs://; once in a process."""
    is_gcs, spec_of = gcs_utils.is_gcs_path, tensorstore_utils.build_kvstore_tspec

    def is_bucket(path: pathlib.PurePosixPath) -> bool:
        return path.as_posix().startswith(_S3) or is_gcs(path)

    def build_kvstore_tspec(directory: str, *args: Any, **kwargs: Any) -> Any:
        if not directory.startswith(_S3):
            return spec_of(directory, *args, **kwargs)
        return _in_s3(spec_of(_GS + directory.removeprefix(_S3), *args, **kwargs))

    gcs_utils.is_gcs_path = is_bucket
    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _in_s3(spec: Any) -> Any:
    """TensorStore's spec of a key-value store, with each store in GCS replaced by one in S3."""
    if isinstance(spec, str) and spec.startswith(_GS):
        bucket, _, path = spec.removeprefix(_GS).partition('/')
        return _store(bucket, path)
    if isinstance(spec, list):
        return [_in_s3(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get('driver') in ('gcs', 'gcs_grpc'):
        return _store(spec['bucket'], spec['path'])
    return {name: _in_s3(part) for name, part in spec.items()}


def _store(bucket: str, path: str) -> dict[str, Any]:
    """The spec of a folder in S3, with endpoint and credentials as s3fs takes them."""
    spec: dict[str, Any] = {'driver': 's3', 'bucket': bucket, 'path': path}
    endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')
    if endpoint:
        region = os.environ.get('AWS_REGION') or os.environ.get('AWS_DEFAULT_REGION')
        spec |= {'endpoint': endpoint, 'aws_region': region or 'us-east-1'}
    if os.environ.get('AWS_ACCESS_KEY_ID'):
        # TensorStore would log an error for each file in ~/.aws that is missing.
        spec['aws_credentials'] = {'type': 'environment'}
    return spec
