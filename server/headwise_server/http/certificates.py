"""TLS of the HTTP port: the certificates of the gRPC port, read again at a new connection when their files change."""

import logging
import ssl

from headwise_server.tls import Signature, TlsError, TlsFiles, read

logger = logging.getLogger(__name__)


class ListeningContext(ssl.SSLContext):
    """What asyncio listens with: hands each new connection to a context made of the files as they are.

    A context once made is not changed. Its session tickets are good for it alone, so nobody whom an earlier authority
    has signed comes back by a ticket of that time.

    Raises:
        TlsError: the files cannot be used.
    """

    def __new__(cls, files: TlsFiles) -> "ListeningContext":
        """A context that has no certificates itself."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._signature()
        self._latest = self._made()

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """The TLS of one connection; asyncio makes it here and nowhere else."""
        self._refresh()
        return self._latest.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _signature(self) -> Signature | None:
        try:
            return self._files.signature()
        except OSError:
            return None  # `read` says why

    def _made(self) -> ssl.SSLContext:
        read(self._files)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._files.certificate, self._files.key)
            if self._files.client_ca:
                context.load_verify_locations(self._files.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{self._files.certificate} cannot be used over HTTP: {error}.") from error
        return context

    def _refresh(self) -> None:
        now = self._signature()
        if now == self._seen:
            return
        self._seen = now
        try:
            self._latest = self._made()
        except TlsError as error:
            logger.error("the certificates of HTTP stay as they are: %s", error)
        else:
            logger.info("the certificates of %s are used over HTTP from now on", self._files.certificate)
