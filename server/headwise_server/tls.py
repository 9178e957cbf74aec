"""The server's certificates: checked at the start, and read again when their files change.

Every new connection looks at the files. What cannot be used, such as a certificate whose key is not there yet, is
logged once, and the certificates before it stay in use. Connections that are open are not touched.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

logger = logging.getLogger(__name__)
MAX_FILE_BYTES = 2**20
Signature = tuple[tuple[int, int, int], ...]  # modification time, size and inode of each file


class TlsError(Exception):
    """Certificates cannot be used; the message names the file, what was expected and what was found."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files."""

    certificate: Path  # of the server, then those between it and a root
    key: Path
    client_ca: Path | None = None  # clients must present a certificate that one of these has signed

    def all(self) -> list[Path]:
        """Those that are given."""
        return [path for path in (self.certificate, self.key, self.client_ca) if path]

    def signature(self) -> Signature:
        """Changes when a file does.

        Raises:
            OSError: one is not there.
        """
        states = [path.stat() for path in self.all()]
        return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise TlsError(f"{path}: expected a PEM file of at most {MAX_FILE_BYTES} bytes, found more.")
    return content


def _check_time(path: Path, certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        raise TlsError(
            f"{path}: expected certificates that are valid now, {now:%Y-%m-%d %H:%M} UTC; found one for "
            f"{certificate.subject.rfc4514_string()!r} that is valid from {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M}."
        )


def _certified_key(path: Path, content: bytes) -> bytes:
    """The public key of the first certificate of a file, all of which are valid now."""
    with _readable(path, "certificates"):
        certificates = x509.load_pem_x509_certificates(content)
        for certificate in certificates:  # some parts are read when they are asked for
            _check_time(path, certificate)
        keys = [certificate.public_key() for certificate in certificates]
        return keys[0].public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_key(path: Path, content: bytes) -> bytes:
    """Of a private key."""
    with _readable(path, "a private key"):
        try:
            key = load_pem_private_key(content, None)
        except TypeError:
            raise TlsError(f"{path}: expected a private key without a passphrase, found one with it.") from None
        return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a fault of the file: the parser's errors have no class in common but Exception."""
    try:
        yield
    except TlsError:
        raise
    except Exception as error:
        raise TlsError(f"{path}: expected {what} in PEM, found none that can be read ({error}).") from None


def read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """The certificates of the files.

    Raises:
        TlsError: one cannot be read, is not valid now, or the key belongs to another certificate.
    """
    certificate, key = _read(files.certificate), _read(files.key)
    if _certified_key(files.certificate, certificate) != _public_key(files.key, key):
        raise TlsError(f"{files.key}: expected the key of the first certificate in {files.certificate}, found another.")
    roots = None
    if files.client_ca:
        roots = _read(files.client_ca)
        _certified_key(files.client_ca, roots)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], roots)


class Certificates:
    """The certificates in use. Belongs to all threads.

    Raises:
        TlsError: as `read`.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files, self._lock = files, threading.Lock()
        self._seen: Signature | None = self._signature()
        self.first = read(files)

    def _signature(self) -> Signature | None:
        try:
            return self._files.signature()
        except OSError:
            return None  # `read` says why

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Those of the files, where they have changed since the last look and can be used."""
        with self._lock:
            now = self._signature()
            if now == self._seen:
                return None
            self._seen = now
            try:
                configuration = read(self._files)
            except TlsError as error:
                logger.error("the certificates stay as they are: %s", error)
                return None
            except Exception:  # this is gRPC's thread, which has no use for it
                logger.exception("the certificates stay as they are: unforeseen error")
                return None
            logger.info("the certificates of %s are used from now on", self._files.certificate)
            return configuration


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """What a port is bound with.

    Raises:
        TlsError: as `read`.
    """
    certificates = Certificates(files)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first,
        certificates.changed,  # type: ignore[arg-type]  # None is for no change, which the stubs leave out
        files.client_ca is not None,
    )
