"""A listening socket with which asyncio waits when the process has no file descriptor left."""

import errno
import socket
from typing import Any

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # those that asyncio tries again after


class ListeningSocket(socket.socket):
    """What asyncio's servers listen on here. No longer needed where asyncio stops at the first error.

    After such an error asyncio tries again in a second. But it also goes on at once with as many attempts as the
    backlog has places, logs each, and tries again a second after each [CPython 3.7 to 3.13, `_accept_connection`]. A
    loop soon does nothing else.
    """

    _is_refused = False

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; right after an error as if there were none, which ends the attempts."""
        if self._is_refused:
            self._is_refused = False
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            self._is_refused = error.errno in OUT_OF_RESOURCES
            raise
