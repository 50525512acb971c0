"""Checkpoints in s3://, which Orbax does not write by itself.

Orbax knows local files and gs://. TensorStore, which it writes with, also knows s3://. `enable`
replaces the four functions of Orbax that tell a bucket from a folder. They are private, so the
extra [s3] bounds the version of orbax-checkpoint.
"""

import functools
import os
import pathlib
from typing import Any

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

_S3 = 's3://'


@functools.cache
def enable() -> None:
    """Makes Orbax treat s3:// as it treats gs://; once in a process."""
    is_gcs, spec_of_gcs = gcs_utils.is_gcs_path, gcs_utils.get_kvstore_for_gcs
    normalize = tensorstore_utils._normalize_path

    def is_bucket(path: pathlib.PurePosixPath) -> bool:
        return path.as_posix().startswith(_S3) or is_gcs(path)

    def spec(location: str) -> dict[str, Any]:
        return _spec(location) if location.startswith(_S3) else spec_of_gcs(location)

    gcs_utils.is_gcs_path = is_bucket
    gcs_utils.get_kvstore_for_gcs = spec
    tensorstore_utils._use_gcs_driver = lambda path: path.startswith(('gs://', _S3))
    tensorstore_utils._normalize_path = lambda path: normalize(path).replace('s3:/', _S3)


def _spec(location: str) -> dict[str, Any]:
    """TensorStore's key-value store of a folder; the endpoint as s3fs takes it."""
    bucket, _, path = location.removeprefix(_S3).partition('/')
    spec: dict[str, Any] = {'driver': 's3', 'bucket': bucket, 'path': path}
    endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')
    if endpoint:
        region = os.environ.get('AWS_REGION') or os.environ.get('AWS_DEFAULT_REGION')
        spec |= {'endpoint': endpoint, 'aws_region': region or 'us-east-1'}
    if os.environ.get('AWS_ACCESS_KEY_ID'):
        # TensorStore would log an error for each file in ~/.aws that is missing.
        spec['aws_credentials'] = {'type': 'environment'}
    return spec
