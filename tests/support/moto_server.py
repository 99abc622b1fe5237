"""An S3 server for the tests: moto, whose conditional writes are one step each.

moto checks a condition and then writes, while other threads do the same: two of
sixteen that create one object may both win. S3 has one winner; so has this.

    python tests/support/moto_server.py -p 9024
"""

import functools
import threading
from typing import Any, Callable

from moto import server
from moto.s3.responses import S3Response

_lock = threading.Lock()


def _in_turn(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of moto's handlers, whose request was read already."""

    @functools.wraps(handler)
    def handle(*arguments: Any, **keywords: Any) -> Any:
        with _lock:
            return handler(*arguments, **keywords)

    return handle


if __name__ == "__main__":
    for method in ("put", "post", "delete"):
        name = f"_key_response_{method}"
        setattr(S3Response, name, _in_turn(getattr(S3Response, name)))
    server.main()
