"""Certificates that tests make: an authority, and what it signs, as PEM files."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from headwise import Tls

LOCAL_NAMES = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path

    def options(self) -> list[str]:
        """How a server is given them."""
        return ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]


class Authority:
    """Signs certificates. Its own is `certificate`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.certificate = folder, folder / f"{name}.pem"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate.write_bytes(self._signed(self._name, self._key.public_key(), timedelta(days=1), is_root=True))

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        lasts: timedelta,
        names: tuple[x509.GeneralName, ...] = (),
        is_root: bool = False,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=name,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=2),
            not_valid_after=now + lasts,
        ).add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def sign(
        self,
        name: str,
        *,
        names: tuple[x509.GeneralName, ...] = LOCAL_NAMES,
        lasts: timedelta = timedelta(days=1),
        passphrase: bytes = b"",
    ) -> Pair:
        """A new certificate and key under a name; files of that name are replaced."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        pair.certificate.write_bytes(self._signed(subject, key.public_key(), lasts, names))
        return pair

    def tls(self, client: Pair | None = None, server_name: str = "") -> Tls:
        """What a client needs to trust what this authority signs."""
        if client:
            return Tls(self.certificate, client.certificate, client.key, server_name)
        return Tls(self.certificate, server_name=server_name)
