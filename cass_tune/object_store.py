"""Requests to an object store, which are repeated while it is away, and what its errors ask the user to do.

It is reached through `pyarrow.fs`, which is imported when one is used. Endpoint, region and credentials come from the
environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ...) or from where else the AWS SDK finds
credentials; they are kept nowhere. A key is an object's bucket and path, as pyarrow wants it: ``bucket/prefix``.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from cass_tune.disk import explained, temporary_file, temporary_name, transfer_folder
from cass_tune.errors import StorageError
from cass_tune.patience import delays, own_patience_s

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

logger = logging.getLogger(__name__)

_CONNECT_S, _ANSWER_S, _REQUESTS = 5.0, 30.0, 2
"""Limits of one request, and how often pyarrow sends it before an operation has failed."""
_CHUNK_BYTES = 16 * 2**20
_ONE_PUT_BYTES = 5 * 2**20
"""Larger files may be uploaded in several parts (pyarrow does from 10 MiB on)."""
_TRANSIENT = re.compile(
    r"AWS Error (NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE"
    r"|NO_SUCH_UPLOAD)|HTTP status (5\d\d|408|429)"
)
_HOPELESS = re.compile(r"curlCode: (1|3|51|58|60|77),")
"""Of the connection's errors those that waiting does not mend: malformed addresses, certificates."""
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT|ExpiredToken"
    r"|InvalidToken|INVALID_CLIENT_TOKEN_ID|REQUEST_EXPIRED|MISSING_AUTHENTICATION_TOKEN|HTTP status 40[013]"
)
_outages: set[str] = set()
"""The buckets that are away."""
_outages_lock = threading.Lock()

_Result = TypeVar("_Result")


def address(key: str) -> str:
    """Return how a place in an object store is given and shown: ``s3://bucket/prefix``."""
    return f"s3://{key}"


def is_away(key: str) -> bool:
    """Return whether the store could not be reached when it was asked last."""
    return _bucket(key) in _outages


def _bucket(key: str) -> str:
    return key.partition("/")[0]


def ask(key: str, operation: Callable[[S3FileSystem], _Result], patience_s: float | None = None) -> _Result:
    """Return what an operation on an object store returns; while the store is away, try again.

    Args:
        key: what the operation is about.
        operation: can be repeated.
        patience_s: how long to try again; by default as `cass_tune.patience` says.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the store is away for too long, or refuses.
    """
    started, waits_s = time.monotonic(), delays()
    patience_s = own_patience_s() if patience_s is None else patience_s
    while True:
        try:
            result = operation(_connection(os.getpid(), _bucket(key)))
        except FileNotFoundError:
            _end_outage(key)
            raise missing(key) from None
        except ValueError as error:  # an address that pyarrow does not take
            raise StorageError(None, _refusal(key, error)) from error
        except OSError as error:
            if error.errno is not None:  # of the local file system
                raise
            if not _is_transient(error):
                raise StorageError(None, _refusal(key, error)) from error
            _begin_outage(key, error, patience_s)
            tried_s, delay_s = time.monotonic() - started, next(waits_s)
            if tried_s + delay_s > patience_s:
                raise StorageError(None, _given_up(key, error, tried_s)) from error
            time.sleep(delay_s)
        else:
            _end_outage(key)
            return result


def missing(key: str) -> FileNotFoundError:
    """Return the error that there is no such object."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address(key))


def read(key: str, patience_s: float | None = None) -> bytes:
    """Return an object's content; arguments and errors as in `ask`."""
    return ask(key, lambda store: _read(store, key), patience_s)


def _read(store: S3FileSystem, key: str) -> bytes:
    with store.open_input_stream(key, compression=None) as stream:
        return stream.read()


def download(key: str, target: Path) -> None:
    """Write an object's content to a local file; errors as in `ask`."""
    from pyarrow.fs import LocalFileSystem, copy_files

    local = LocalFileSystem()
    options = {"destination_filesystem": local, "chunk_size": _CHUNK_BYTES}
    ask(key, lambda store: copy_files(key, str(target), source_filesystem=store, **options))


@contextmanager
def explained_transfer(key: str) -> Iterator[None]:
    """Turn an error of the disk that keeps an object for its transfer into a StorageError that says what to do."""
    folder = transfer_folder()
    with explained(f"Cannot keep {address(key)} in {folder} for the transfer", None):
        yield


def write(key: str, data: bytes, patience_s: float | None = None) -> None:
    """Write an object whole or not at all; arguments and errors as in `ask`."""
    with explained_transfer(key), temporary_file(transfer_folder(), key.rpartition("/")[2]) as temporary:
        temporary.write_bytes(data)
        upload(temporary, key, patience_s)


def upload(source: Path, key: str, patience_s: float | None = None) -> None:
    """Make an object of a local file; it appears when it is complete.

    pyarrow completes an upload in parts even when a part has failed, and a truncated object appears. Files that may be
    uploaded in parts therefore get a temporary name, and the store copies the complete ones to their own.
    """
    if source.stat().st_size <= _ONE_PUT_BYTES:
        ask(key, lambda store: _put(source, key, to=store), patience_s)
        return
    folder, slash, name = key.rpartition("/")
    temporary = f"{folder}{slash}{temporary_name(name)}"
    try:
        ask(key, lambda store: _put(source, temporary, to=store), patience_s)
        ask(key, lambda store: store.copy_file(temporary, key), patience_s)
    finally:
        with suppress(OSError):
            ask(temporary, lambda store: store.delete_file(temporary), patience_s=0)


def _put(source: Path, key: str, *, to: S3FileSystem) -> None:
    """Upload a file; `pyarrow.fs.copy_files` would not say when the last request, often the only one, has failed."""

    def put() -> None:
        with source.open("rb") as content:
            chunk = content.read(_CHUNK_BYTES)  # before the stream is open: whatever fails then, it completes
            stream = to.open_output_stream(key, compression=None)
            try:
                while chunk:
                    stream.write(chunk)
                    chunk = content.read(_CHUNK_BYTES)
            except BaseException:
                with suppress(OSError):  # would take the place of the reason
                    stream.close()
                raise
            stream.close()

    _uninterrupted(put)


def _uninterrupted(call: Callable[[], None]) -> None:
    """Make a call that no exception of a signal's handler interrupts: those are raised in the main thread.

    The main thread waits for a bare lock, because such an exception breaks the locks of `threading` and
    `concurrent.futures` while they are waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    outcome: list[BaseException | None] = []
    running = threading.Lock()
    running.acquire()

    def run() -> None:
        try:
            call()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        finally:
            running.release()

    _thread.start_new_thread(run, ())
    try:
        running.acquire()
    except BaseException:
        if not outcome:
            running.acquire()
        raise
    if outcome[0] is not None:
        raise outcome[0]


def _is_transient(error: OSError) -> bool:
    return bool(_TRANSIENT.search(str(error))) and not _HOPELESS.search(str(error))


def _begin_outage(key: str, error: OSError, patience_s: float) -> None:
    with _outages_lock:
        is_new = _bucket(key) not in _outages
        _outages.add(_bucket(key))
    if is_new:
        period = f" for {patience_s:g} s" if patience_s else ""
        logger.warning("%s cannot be reached, which is tried again%s: %s", address(key), period, _reason(error))


def _end_outage(key: str) -> None:
    with _outages_lock:
        is_over = _bucket(key) in _outages
        _outages.discard(_bucket(key))
    if is_over:
        logger.info("%s can be reached again", address(_bucket(key)))


def _reason(error: Exception) -> str:
    """Return what pyarrow says, without what it was doing and the number of the request."""
    return re.sub(r"^.*?(?=AWS Error)| \(Request ID: .*?\)", "", str(error), flags=re.DOTALL).rstrip(". ")


def _given_up(key: str, error: OSError, tried_s: float) -> str:
    return (
        f"{address(key)} cannot be reached, tried for {tried_s:.0f} s: {_reason(error)}. Check the network, and the "
        "endpoint in AWS_ENDPOINT_URL if one is set; what is finished is kept, and the same command runs the rest."
    )


def _refusal(key: str, error: Exception) -> str:
    reason = _reason(error)
    if "NO_SUCH_BUCKET" in reason or "RESOURCE_NOT_FOUND" in reason:
        advice = f"There is no bucket {_bucket(key)!r}: make it, or name another one."
    elif "HTTP status 301" in reason or "AuthorizationHeaderMalformed" in reason:
        advice = "The bucket is in another region: name it in AWS_REGION."
    elif _REFUSED.search(reason):
        advice = (
            "Check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or a profile), and "
            "that they allow to list the bucket and to read, write and delete its objects."
        )
    else:
        advice = "Check the address, and the endpoint in AWS_ENDPOINT_URL if one is set."
    return f"{address(key)} cannot be used: {reason}. {advice}"


@cache
def _connection(process: int, bucket: str) -> S3FileSystem:
    """Return the file system of a bucket; every process has its own, because connections do not survive a fork."""
    from pyarrow import fs

    atexit.register(_connection.cache_clear)  # before pyarrow's own end, which waits for file systems in use
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    parts = urlsplit(url if "//" in url or not url else f"https://{url}")
    if url and not parts.hostname:
        raise ValueError("AWS_ENDPOINT_URL has no host name")
    return fs.S3FileSystem(
        endpoint_override=f"{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}" or None,
        scheme=parts.scheme or "https",
        region=region or ("us-east-1" if url else fs.resolve_s3_region(bucket)),
        connect_timeout=_CONNECT_S,
        request_timeout=_ANSWER_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_REQUESTS),
        allow_delayed_open=True,  # small objects are one request
        background_writes=False,  # otherwise a large file is read faster than it is sent, into memory
    )
