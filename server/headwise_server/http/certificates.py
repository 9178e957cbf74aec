"""TLS of the HTTP port: the certificates of the gRPC port, read again at a new connection when their files change."""

import logging
import ssl

from headwise_server.tls import Signature, TlsError, TlsFiles, read

logger = logging.getLogger(__name__)
Connection = ssl.SSLObject | ssl.SSLSocket


class ServerContexts:
    """What new connections use. Belongs to one event loop.

    Raises:
        TlsError: the files cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._signature()
        self._latest = self._made()

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

    def _refresh(self, connection: Connection, name: str | None, context: ssl.SSLContext) -> None:
        now = self._signature()
        if now != self._seen:
            self._seen = now
            try:
                self._latest = self._made()
            except TlsError as error:
                logger.error("the certificates of HTTP stay as they are: %s", error)
        if self._latest is not context:
            connection.context = self._latest

    def listening(self) -> ssl.SSLContext:
        """The context to listen with; each connection goes over to the latest one."""
        context = self._made()
        context.sni_callback = self._refresh  # called at every handshake, with a name or without
        return context
