"""Refuses and records every connection to, and every look-up of, another machine, in this process and its children.

On the path of Python (PYTHONPATH) it is imported at every start. NETWORK_GUARD_LOG names the file of the record.
"""

import os
import sys
import traceback

_LOCAL = ("127.", "localhost", "::1", "0.0.0.0", "::", os.uname().nodename)


def _guard(event: str, arguments: tuple) -> None:
    if event == "socket.connect" or event == "socket.sendto":
        address = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments
    else:
        return
    host = address[0] if isinstance(address, tuple) else ""  # others are sockets of this machine
    host = host.decode() if isinstance(host, bytes) else host
    if not host or str(host).startswith(_LOCAL):
        return
    with open(os.environ["NETWORK_GUARD_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{event} {address!r} in {sys.argv}\n{''.join(traceback.format_stack(limit=12))}\n")
    raise OSError(f"the network guard refuses {event} to {address!r}")


if "NETWORK_GUARD_LOG" in os.environ:
    sys.addaudithook(_guard)
