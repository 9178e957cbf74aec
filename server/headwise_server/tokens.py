"""Bearer tokens: who has which, and what it permits, from a TOML file.

    [tokens.alice]
    sha256 = "..."                      # of the token; the token itself is nowhere
    models = ["digits"]                 # or ["*"] for all
    actions = ["classify", "explain"]   # of: classify, explain, repository, channelz, metrics
    calls_per_second = 10               # and images_per_second; those of the settings where they are left out

A token is 256 random bits, so one fast hash is enough: it cannot be guessed from its hash. The file is looked at every
second. One that cannot be used leaves the tokens as they are, and the log says so.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headwise_server.errors import Unauthenticated
from headwise_server.identity import Action, Identity, Limits

logger = logging.getLogger(__name__)
MAX_FILE_BYTES = 2**20
LOOK_SECONDS = 1.0
TOKEN_BYTES = 32
PREFIX = "headwise_"  # by which scanners of source code can know one
MAX_TOKEN_CHARACTERS = 4096
SCHEME = "bearer"
NAME = r"[A-Za-z0-9_-]{1,64}"
HINT = "Send `authorization: Bearer TOKEN`, in the Python client with token=."


class TokensError(Exception):
    """Tokens cannot be used; the message names the file, what was expected and what was found."""


class Entry(BaseModel):
    """What a token permits."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    models: frozenset[str]
    actions: frozenset[Action]
    calls_per_second: Annotated[float, Field(ge=0)] | None = None
    images_per_second: Annotated[float, Field(ge=0)] | None = None

    def identity(self, name: str, limits: Limits) -> Identity:
        """Whoever has the token."""
        own = Limits(
            limits.calls_per_second if self.calls_per_second is None else self.calls_per_second,
            limits.images_per_second if self.images_per_second is None else self.images_per_second,
        )
        return Identity(name, name, None if "*" in self.models else self.models, self.actions, own)


class TokenFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: dict[Annotated[str, Field(pattern=f"^{NAME}$")], Entry]


def sha256(token: str) -> str:
    """What the file has of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def make_token(name: str) -> tuple[str, str]:
    """A new token, and its lines for the file.

    Raises:
        TokensError: the name is none.
    """
    if not re.fullmatch(NAME, name):
        raise TokensError(f"expected a name of up to 64 ASCII letters, digits, _ and -; found {name[:100]!r}.")
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    lines = f'[tokens.{name}]\nsha256 = "{sha256(token)}"\nmodels = ["*"]\nactions = ["classify", "explain"]\n'
    return token, lines


def read(path: Path) -> dict[str, Entry]:
    """The entries of a file, by name.

    Raises:
        TokensError: it cannot be read, or is not what it must be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise TokensError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found more.")
        entries = TokenFile.model_validate(tomllib.loads(content.decode("utf-8"))).tokens
    except OSError as error:
        raise TokensError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokensError(f"{path}: expected a TOML file in UTF-8, found something else: {error}.") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TokensError(f"{path}: {where}: {first['msg']}. `headwise-server --make-token` makes an entry.") from None
    if len({entry.sha256 for entry in entries.values()}) < len(entries):
        raise TokensError(f"{path}: expected a token for each name, found two names with the same.")
    return entries


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


class Tokens:
    """The tokens in use. Belongs to one event loop.

    Args:
        limits: of tokens that have none of their own.

    Raises:
        TokensError: as `read`.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._seen = _signature(path)
        self._use(read(path))

    def _use(self, entries: dict[str, Entry]) -> None:
        self._identities = [
            (bytes.fromhex(entry.sha256), entry.identity(name, self._limits)) for name, entry in entries.items()
        ]

    def identify(self, authorizations: Iterable[str | bytes]) -> Identity:
        """Whoever a call's `authorization` says it is; looks at all tokens, however soon one is the right one.

        Raises:
            Unauthenticated: there is none, more than one, or one that is not known.
        """
        values = list(authorizations)
        if not values:
            raise Unauthenticated(f"expected a token, found none. {HINT}")
        value = values[0] if isinstance(values[0], str) else values[0].decode("latin-1")
        scheme, _, token = value.strip().partition(" ")
        if len(values) > 1 or scheme.lower() != SCHEME or len(value) > MAX_TOKEN_CHARACTERS:
            raise Unauthenticated(f"expected one authorization, of the form `Bearer TOKEN`, found another. {HINT}")
        digest, owner = bytes.fromhex(sha256(token.strip())), None
        for known, identity in self._identities:
            if hmac.compare_digest(digest, known):
                owner = identity
        if owner is None:
            raise Unauthenticated("expected a token that this server knows, found another: it may have been replaced.")
        return owner

    def look(self) -> None:
        """Read the file again where it has changed."""
        now = _signature(self._path)
        if now == self._seen:
            return
        self._seen = now
        try:
            self._use(read(self._path))
        except TokensError as error:
            logger.error("the tokens stay as they are: %s", error)
        except Exception:
            logger.exception("the tokens stay as they are: unforeseen error")
        else:
            logger.info("the tokens of %s are used from now on: %d", self._path, len(self._identities))

    async def watch(self) -> None:
        """Follow the changes of the file for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()
