"""How a client gets into a server: TLS, a certificate of its own, a bearer token. All files are PEM.

    Access(tls=Tls(root_certificates="ca.pem"), token="...")

A token is not sent in plain text to another machine unless that is allowed by name.
"""

import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

Options = Sequence[tuple[str, int | str]]
TRUE, FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
ENVIRONMENT = {  # what each part is called there
    "tls": "HEADWISE_TLS",
    "root_certificates": "HEADWISE_ROOT_CERTIFICATES",
    "certificate": "HEADWISE_CLIENT_CERTIFICATE",
    "key": "HEADWISE_CLIENT_KEY",
    "server_name": "HEADWISE_TLS_SERVER_NAME",
    "token": "HEADWISE_TOKEN",
    "token_file": "HEADWISE_TOKEN_FILE",
    "allow_plaintext_token": "HEADWISE_ALLOW_PLAINTEXT_TOKEN",
}
TOKEN_CHARACTERS = 4096


@dataclass(frozen=True)
class Tls:
    """Encryption, and who is trusted."""

    root_certificates: str | Path | None = None  # of who signs servers; None: those that gRPC brings
    certificate: str | Path | None = None  # of the client, where the server asks for one
    key: str | Path | None = None
    server_name: str = ""  # that the server's certificate is for, where it is not the target's host

    def credentials(self) -> grpc.ChannelCredentials:
        """What a channel is opened with.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is no PEM, or the key is not that of the certificate.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected a client's certificate together with its key, found one of the two.")
        roots, key, certificate = (
            Path(path).read_bytes() if path is not None else None
            for path in (self.root_certificates, self.key, self.certificate)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.root_certificates is not None:
                context.load_verify_locations(self.root_certificates)
        except ssl.SSLError:
            raise ValueError(f"expected certificates in PEM in {self.root_certificates}, found none.") from None
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")  # never ask at a terminal
        except ssl.SSLError as error:
            raise ValueError(
                f"expected a certificate in {self.certificate} and its key, without a passphrase, in {self.key}; "
                f"found {error.reason or 'none'}."
            ) from None
        return grpc.ssl_channel_credentials(roots, key, certificate)


def is_local(target: str) -> bool:
    """Whether what is sent to a target stays on this machine."""
    if target.startswith("unix:"):
        return True
    host = target.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """How a client gets into a server; nothing of it is needed by one that takes plain text from anyone."""

    tls: Tls | None = None
    token: str = field(default="", repr=False)
    allow_plaintext_token: bool = False

    def metadata(self, target: str) -> tuple[tuple[str, str], ...]:
        """What each call carries.

        Raises:
            ValueError: others could read the token on its way, or it can be none.
        """
        if not self.token:
            return ()
        if not (self.token.isascii() and self.token.isprintable() and len(self.token) <= TOKEN_CHARACTERS):
            raise ValueError(
                f"expected a token of at most {TOKEN_CHARACTERS} printable ASCII characters, found another."
            )
        if not self.tls and not is_local(target) and not self.allow_plaintext_token:
            raise ValueError(
                f"expected TLS to {target}, which is not this machine: anyone on the way could read the token. "
                "Use TLS, or allow the token in plain text by name."
            )
        return (("authorization", f"Bearer {self.token}"),)

    def _options(self, options: Options) -> list[tuple[str, int | str]]:
        name = self.tls.server_name if self.tls else ""
        return [*options, *([("grpc.ssl_target_name_override", name)] if name else [])]

    def channel(self, target: str, options: Options = ()) -> grpc.Channel:
        """A blocking channel.

        Raises:
            OSError, ValueError: as `Tls.credentials`.
        """
        if self.tls:
            return grpc.secure_channel(target, self.tls.credentials(), options=self._options(options))
        return grpc.insecure_channel(target, options=self._options(options))

    def aio_channel(self, target: str, options: Options = ()) -> grpc.aio.Channel:
        """An awaiting channel.

        Raises:
            OSError, ValueError: as `Tls.credentials`.
        """
        if self.tls:
            return grpc.aio.secure_channel(target, self.tls.credentials(), options=self._options(options))
        return grpc.aio.insecure_channel(target, options=self._options(options))


def make_access(
    *,
    tls: bool = False,
    root_certificates: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    server_name: str = "",
    token: str = "",  # none
    token_file: str | Path | None = None,
    allow_plaintext_token: bool = False,
) -> Access:
    """An access of its parts; any certificate means TLS.

    Args:
        token_file: whose first line is the token, where `token` is empty.

    Raises:
        OSError: the file of the token cannot be read.
        ValueError: it has none.
    """
    if not token and token_file is not None:
        with Path(token_file).open(encoding="ascii", errors="replace") as file:
            token = file.readline(TOKEN_CHARACTERS + 2).strip()
        if not token:
            raise ValueError(f"expected a token in the first line of {token_file}, found none.")
    encrypted = tls or any((root_certificates, certificate, key, server_name))
    settings = Tls(root_certificates or None, certificate or None, key or None, server_name)
    return Access(settings if encrypted else None, token, allow_plaintext_token)


def from_environment(environment: Mapping[str, str]) -> Access:
    """The access that variables of the environment describe, as for the command `headwise`.

    Raises:
        OSError: the file of a token cannot be read.
        ValueError: a variable is not what it must be.
    """
    parts = {part: environment[name] for part, name in ENVIRONMENT.items() if environment.get(name)}
    switches = {}
    for part in ("tls", "allow_plaintext_token"):
        value = parts.pop(part, "").lower()
        if value not in (*TRUE, *FALSE):
            raise ValueError(f"{ENVIRONMENT[part]}: expected true or false, found {value!r}.")
        switches[part] = value in TRUE
    return make_access(**switches, **parts)  # type: ignore[arg-type]  # names and kinds are those of ENVIRONMENT
