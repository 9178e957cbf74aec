"""TLS and tokens of the client, without a server; with one in tests/server/test_tls.py and test_tokens.py."""

from pathlib import Path

import certificates
import pytest
from headwise import Client, Tls
from headwise.access import ENVIRONMENT, Access, from_environment, is_local, make_access


@pytest.mark.parametrize(
    "target", ["localhost:1", "127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "unix:/run/s", "dns:///localhost:1"]
)
def test_targets_of_this_machine(target: str) -> None:
    """Names and addresses that lead nowhere else."""
    assert is_local(target)
    assert Access(token="t").metadata(target) == (("authorization", "Bearer t"),)


@pytest.mark.parametrize("target", ["example.org:1", "10.0.0.1:1", "[::2]:1", "localhost.example.org:1", "0.0.0.0:1"])
def test_tokens_are_not_sent_in_plain_text_to_other_machines(target: str) -> None:
    """Unless that is allowed by name, or TLS hides them."""
    with pytest.raises(ValueError, match="could read the token"):
        Client(target, token="t")
    with_token = (("authorization", "Bearer t"),)
    assert Access(token="t", allow_plaintext_token=True).metadata(target) == with_token
    assert Access(Tls(), "t").metadata(target) == with_token


@pytest.mark.parametrize("token", ["two\nlines", "grün", "t" * 4097])
def test_tokens_that_no_header_can_hold_are_refused(token: str) -> None:
    """Before anything is sent, and without showing the token."""
    with pytest.raises(ValueError, match="expected a token") as caught:
        Client("localhost:1", token=token)
    assert token not in str(caught.value)
    assert token not in repr(Access(token=token))


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    """Named, with what was expected: gRPC would only fail to connect."""
    authority = certificates.Authority(tmp_path)
    own, other = authority.sign("own"), authority.sign("other")
    secret = authority.sign("secret", passphrase=b"secret")
    for tls, message in (
        (Tls(own.key), "expected certificates in PEM"),
        (Tls(authority.certificate, own.certificate), "together with its key"),
        (Tls(authority.certificate, own.certificate, other.key), "found KEY_VALUES_MISMATCH"),
        (Tls(authority.certificate, secret.certificate, secret.key), "without a passphrase"),
    ):
        with pytest.raises(ValueError, match=message):
            tls.credentials()
    with pytest.raises(FileNotFoundError):
        Tls(tmp_path / "gone").credentials()
    assert Tls(authority.certificate, own.certificate, own.key).credentials()


def test_environment_describes_an_access(tmp_path: Path) -> None:
    """Every part by its variable; any certificate means TLS, and a token goes before a file of one."""
    assert from_environment({}) == Access()
    assert from_environment({"HEADWISE_TLS": "true"}) == Access(Tls())
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert from_environment({"HEADWISE_TOKEN_FILE": str(file)}).token == "from-file"
    values = {part: part for part in ENVIRONMENT} | {"tls": "no", "allow_plaintext_token": "1"}
    access = from_environment({ENVIRONMENT[part]: value for part, value in values.items()})
    assert access == Access(Tls("root_certificates", "certificate", "key", "server_name"), "token", True)
    with pytest.raises(ValueError, match="HEADWISE_TLS: expected true or false"):
        from_environment({"HEADWISE_TLS": "maybe"})
    file.write_text("\n")
    with pytest.raises(ValueError, match="found none"):
        make_access(token_file=file)
