"""The exceptions that end a command, and the detection of a lost process or bucket."""

import re
from collections.abc import Iterator

import jax

# Exit codes of the commands besides 0. A restart helps only after the last, EX_TEMPFAIL of
# sysexits.h.
EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_RESTART = 1, 3, 75


class UserError(ValueError):
    """An error that the user can fix; the message is one sentence with the problem and the fix.

    The commands print the message without a traceback and exit with 1. Any other exception is a
    bug in this package and shows its traceback.
    """


class DivergedError(RuntimeError):
    """Training met a non-finite value; the commands exit with 3: a restart would diverge again."""


class PreemptedError(RuntimeError):
    """A run was asked to stop; the commands exit with 75: start it again."""


# Texts in the errors of collectives (gloo, NCCL), barriers and JAX's coordination service.
_LOST = r'Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Bb]arrier|[Cc]oordination service'


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of JAX or Orbax means that another process ended or is unreachable."""
    return jax.process_count() > 1 and re.search(_LOST, str(error)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX means that a device has not enough memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' in str(error)


# Errors of aiohttp, fsspec, google.auth, botocore and requests for a server that does not answer.
_UNANSWERED = {
    'aiohttp.client_exceptions.ClientConnectionError',
    'aiohttp.client_exceptions.ClientPayloadError',
    'botocore.exceptions.HTTPClientError',
    'fsspec.exceptions.FSTimeoutError',
    'google.auth.exceptions.TransportError',
    'requests.exceptions.ConnectionError',
    'requests.exceptions.Timeout',
}
# TensorStore, for one, puts the code of a status into the text.
_BUSY = (
    r'\b(UNAVAILABLE|DEADLINE_EXCEEDED|Slow ?Down|Service ?Unavailable|Bad Gateway'
    r'|Gateway Time-?out|Too Many Requests)\b|\b(HTTP|code:?) 5\d\d\b'
)


def is_outage(error: BaseException) -> bool:
    """Whether an error means that a bucket did not answer, after the retries of the libraries."""
    return any(_is_outage(one) for one in _causes(error))


def _is_outage(error: BaseException) -> bool:
    bases = {f'{base.__module__}.{base.__qualname__}' for base in type(error).__mro__}
    if bases & _UNANSWERED:
        return True
    code = str(getattr(error, 'code', ''))  # of gcsfs's HttpError
    return (
        code == '429' or (len(code) == 3 and code[0] == '5') or bool(re.search(_BUSY, str(error)))
    )


# Words of Google's and Amazon's libraries for missing credentials, permissions and buckets.
_REFUSED = (
    r'PERMISSION_DENIED|UNAUTHENTICATED|Forbidden|AccessDenied|Access Denied|[Cc]redentials'
    r'|Anonymous caller|InvalidAccessKeyId|SignatureDoesNotMatch|NoSuchBucket|bucket does not exist'
    r'|\b(HTTP|code:?|,) (401|403|404)\b'
)


def is_refusal(error: BaseException) -> bool:
    """Whether a bucket refused an access: no credentials, no permission, no bucket."""
    return any(
        isinstance(one, PermissionError)
        or str(getattr(one, 'code', '')) in ('401', '403', '404')
        or re.search(_REFUSED, f'{type(one).__name__}: {one}') is not None
        for one in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
