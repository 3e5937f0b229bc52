"""Moto's server on loopback, with requests that fail when asked to; a program of its own, which `tests.objects` starts.

It is given a port (0 for a free one), prints the one it listens on, and ends with the thread that started it.
"""

from __future__ import annotations

import ctypes
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug import Request, Response
from werkzeug.serving import make_server

FAILURES = "/failures"
PR_SET_PDEATHSIG = 1

Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Failing:
    """Another application, of whose requests some fail; ``PUT /failures`` says which.

    Args:
        application: answers all others.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._rule: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        if request.path == FAILURES:
            self._rule = json.loads(request.get_data())
            return Response()(environ, respond)
        rule = self._failure(f"{request.method} {request.path}?{request.query_string.decode()}")
        if rule is None:
            return self._application(environ, respond)
        request.get_data()  # an answer to half a request is a broken connection
        text = f"<Error><Code>{rule['code']}</Code><Message>on request</Message></Error>"
        return Response(text, rule["status"], content_type="application/xml")(environ, respond)

    def _failure(self, request: str) -> dict[str, Any] | None:
        with self._lock:
            rule = self._rule
            if rule is None or rule["times"] == 0 or not re.search(rule["pattern"], request):
                return None
            rule["times"] -= 1
            return rule


def main() -> None:
    """Listen until killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    application = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
