"""CHAP (RFC 1994) as the login of iSCSI uses it (RFC 7143, 9.2.1, 12.1.3), both roles.

The exchange, after AuthMethod=CHAP: the initiator lists algorithms (CHAP_A); the target picks the
first that it has and sends an identifier and a challenge (CHAP_I, CHAP_C); the initiator answers
with its name and the hash of identifier, secret and challenge (CHAP_N, CHAP_R). With its answer it
may send an identifier and a challenge of its own: then the target has to prove itself too.

What 9.2.1 demands beyond RFC 1994 is here: a challenge that comes back is refused (reflection),
one secret is never good for both directions, a secret has 12 bytes or more, and comparisons take
the same time wherever the first difference is. An unknown name and a wrong secret cannot be told
apart by the peer, not by the answer and not by the work done for it.

Chance comes in as an argument; secrets are given by who made the object and are in no message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto

from daiko.iscsi.error import LoginStatus, RemoteProtocolError
from daiko.iscsi.text_key import error, parse_number

METHOD = "CHAP"
"""Value of AuthMethod."""
KEYS = frozenset({"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"})

SHORTEST_SECRET = 12
"""Bytes: 96 bits (9.2.1)."""
LONGEST_SECRET = 255
"""Bytes. Some hosts take no more than 16."""
LONGEST_NAME = 255
"""Bytes of CHAP_N (6.1)."""
LONGEST_CHALLENGE = 1024
"""Bytes (12.1.3)."""

Chance = Callable[[int], bytes]
"""Number of bytes -> as many random bytes that nobody can foresee."""


class Algorithm(IntEnum):
    """CHAP_A (12.1.3 and IANA's registry of PPP authentication algorithms)."""

    MD5 = 5
    SHA_1 = 6
    SHA_256 = 7
    SHA3_256 = 8


_HASHES: dict[Algorithm, str] = {
    Algorithm.MD5: "md5",
    Algorithm.SHA_1: "sha1",
    Algorithm.SHA_256: "sha256",
    Algorithm.SHA3_256: "sha3_256",
}

DISPUTED = Algorithm.SHA_256
"""Number 7 was SHA-1 in drafts of RFC 3720, and is that to `tgt` to this day: a target that chose
it and then refused our answer may mean that, and is tried once more without it. A target chooses
among what we propose anyway, so nothing is lost by that."""

ALGORITHMS = (Algorithm.SHA3_256, Algorithm.SHA_256, Algorithm.SHA_1, Algorithm.MD5)
"""What we propose, best first. As target we take the first of the initiator's list."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A name, and the secret that proves it. Never shown by `repr`."""

    name: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Account:
    """Both directions of one relation, as the initiator and the target know it."""

    initiator: Secret
    """How the initiator proves itself to the target."""
    target: Secret | None = None
    """How the target proves itself to the initiator; None: it cannot."""


def secret_fault(secret: bytes) -> str:
    """Why these bytes cannot be a secret; "" when they can. Does not repeat them."""
    if len(secret) < SHORTEST_SECRET:
        return f"a CHAP secret has at least {SHORTEST_SECRET} bytes (RFC 7143, 9.2.1)"
    if len(secret) > LONGEST_SECRET:
        return f"a CHAP secret has at most {LONGEST_SECRET} bytes"
    return ""


def name_fault(name: str) -> str:
    """Why this cannot be a CHAP name; "" when it can."""
    if not name:
        return "a CHAP user has a name"
    if len(name.encode()) > LONGEST_NAME:
        return f"a CHAP user's name has at most {LONGEST_NAME} bytes"
    if not name.isprintable():
        return "a CHAP user's name has printable characters only"
    return ""


def response_of(algorithm: Algorithm, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """The hash of identifier, secret and challenge (RFC 1994, 4.1)."""
    made = hashlib.new(_HASHES[algorithm], usedforsecurity=False)
    made.update(bytes((identifier,)) + secret + challenge)
    return made.digest()


def digest_size(algorithm: Algorithm) -> int:
    """Bytes of a response."""
    return hashlib.new(_HASHES[algorithm], usedforsecurity=False).digest_size


def format_binary(value: bytes) -> str:
    """A binary value in the encoding that every peer reads: hexadecimal (6.1)."""
    return "0x" + value.hex()


def parse_binary(text: str, longest: int) -> bytes:
    """A binary value in hexadecimal (0x) or base64 (0b). Raises ValueError; does not repeat it."""
    prefix, digits = text[:2].lower(), text[2:]
    if len(digits) > 2 * longest + 2:
        raise ValueError(f"a binary value is longer than {longest} bytes")
    if prefix == "0x" and digits:
        try:
            # An odd number of digits: the first stands for a whole byte (it is a number).
            value = binascii.unhexlify(digits if len(digits) % 2 == 0 else "0" + digits)
        except ValueError:
            raise ValueError("a hexadecimal value has other characters than digits") from None
    elif prefix == "0b" and digits:
        try:
            value = base64.b64decode(digits.encode("ascii"), validate=True)
        except ValueError:
            raise ValueError("a base64 value is none") from None
    else:
        raise ValueError("a binary value begins with 0x or 0b")
    if not 1 <= len(value) <= longest:
        raise ValueError(f"a binary value is not of 1 to {longest} bytes")
    return value


def refused(message: str) -> RemoteProtocolError:
    """The login ends with 0201h; `message` is for this side's administrator only."""
    return error(message, LoginStatus.AUTHENTICATION_FAILURE)


class _Step(Enum):
    ALGORITHM = auto()
    """The target waits for CHAP_A."""
    RESPONSE = auto()
    """The target waits for CHAP_N and CHAP_R."""
    DONE = auto()


class TargetChap:
    """The target's side of one exchange (`login.Authenticator`)."""

    method = METHOD
    keys = KEYS

    __slots__ = (
        "_accounts",
        "_algorithm",
        "_challenge",
        "_chance",
        "_identifier",
        "_step",
        "name",
        "was_wrong",
    )

    def __init__(self, accounts: Sequence[Account], chance: Chance) -> None:
        """`accounts`: any of them will do. None at all: nobody gets in, and nobody can see that
        from outside."""
        self._accounts = tuple(accounts)
        self._chance = chance
        self._step = _Step.ALGORITHM
        self._algorithm = Algorithm.MD5
        self._identifier = 0
        self._challenge = b""
        self.name = ""
        """CHAP_N of who has proved itself."""
        self.was_wrong = False

    @property
    def is_complete(self) -> bool:
        return self._step is _Step.DONE

    def take(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        """Raises RemoteProtocolError with the login status."""
        if not keys:
            return []
        if self._step is _Step.ALGORITHM:
            return self._choose(keys)
        if self._step is _Step.RESPONSE:
            return self._verify(keys)
        raise refused("CHAP goes on after its end")

    def _choose(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        if keys.keys() != {"CHAP_A"}:
            raise refused("CHAP begins with CHAP_A alone")
        chosen = _first_known(keys["CHAP_A"])
        if chosen is None:
            raise refused("the initiator has no CHAP algorithm that is known here")
        self._algorithm = chosen
        drawn = self._chance(1 + digest_size(chosen))
        self._identifier, self._challenge = drawn[0], drawn[1:]
        self._step = _Step.RESPONSE
        return [
            ("CHAP_A", str(int(chosen))),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", format_binary(self._challenge)),
        ]

    def _verify(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        wants_proof = {"CHAP_I", "CHAP_C"} <= keys.keys()
        expected = {"CHAP_N", "CHAP_R"} | ({"CHAP_I", "CHAP_C"} if wants_proof else set())
        if keys.keys() != expected:
            raise refused("the answer to a challenge is CHAP_N, CHAP_R, and both of CHAP_I, CHAP_C")
        name = keys["CHAP_N"].encode()
        given = _binary(keys, "CHAP_R", LONGEST_CHALLENGE)
        found: Account | None = None
        is_known = False
        # The same work whether the name is known or not, and for each of the accounts.
        for account in self._accounts or (_NOBODY,):
            right = response_of(
                self._algorithm, self._identifier, account.initiator.secret, self._challenge
            )
            is_name = hmac.compare_digest(account.initiator.name.encode(), name)
            is_right = hmac.compare_digest(right, given)
            usable = account is not _NOBODY and bool(account.initiator.secret)
            is_known |= is_name and usable
            if is_name and is_right and usable:
                found = account
        if found is None:
            self.was_wrong = True
            raise refused("a wrong CHAP secret" if is_known else "an unknown CHAP user")
        proof = self._prove(found, keys) if wants_proof else []
        self.name = found.initiator.name
        self._step = _Step.DONE
        return proof

    def _prove(self, account: Account, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        identifier = _identifier(keys)
        challenge = _binary(keys, "CHAP_C", LONGEST_CHALLENGE)
        if hmac.compare_digest(challenge, self._challenge):
            raise refused("the initiator sent our own challenge back (reflection)")
        own = account.target
        if own is None:
            raise refused("the initiator wants this target to prove itself; it has no secret to")
        if hmac.compare_digest(own.secret, account.initiator.secret):
            raise refused("one CHAP secret is set for both directions")
        answer = response_of(self._algorithm, identifier, own.secret, challenge)
        return [("CHAP_N", own.name), ("CHAP_R", format_binary(answer))]


class InitiatorChap:
    """The initiator's side of one exchange (`login.Authenticator`)."""

    method = METHOD
    keys = KEYS

    __slots__ = (
        "_account",
        "_algorithm",
        "_algorithms",
        "_challenge",
        "_chance",
        "_has_begun",
        "_identifier",
        "_is_proved",
        "has_answered",
        "was_wrong",
    )

    def __init__(
        self,
        account: Account,
        chance: Chance,
        *,
        algorithms: Sequence[Algorithm] = ALGORITHMS,
    ) -> None:
        self._account = account
        self._chance = chance
        self._algorithms = tuple(algorithms)
        self._algorithm = Algorithm.MD5
        self._has_begun = False
        self._is_proved = account.target is None
        self._identifier = 0
        self._challenge = b""
        self.has_answered = False
        self.was_wrong = False

    @property
    def is_complete(self) -> bool:
        return self.has_answered and self._is_proved

    @property
    def algorithm(self) -> Algorithm | None:
        """What the target chose; None before our answer."""
        return self._algorithm if self.has_answered else None

    @property
    def is_mutual(self) -> bool:
        """Whether the target has to prove itself."""
        return self._account.target is not None

    def take(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        """Raises RemoteProtocolError."""
        if not self._has_begun:
            if keys:
                raise refused("the target sends a challenge before it was asked for one")
            self._has_begun = True
            return [("CHAP_A", ",".join(str(int(each)) for each in self._algorithms))]
        if not keys:
            return []
        if not self.has_answered:
            return self._answer(keys)
        if self.is_complete:
            raise refused("CHAP goes on after its end")
        self._verify(keys)
        return []

    def _answer(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        if keys.keys() != {"CHAP_A", "CHAP_I", "CHAP_C"}:
            raise refused("a challenge of the target is CHAP_A, CHAP_I and CHAP_C")
        chosen = _first_known(keys["CHAP_A"])
        if chosen not in self._algorithms or "," in keys["CHAP_A"]:
            raise refused("the target chose a CHAP algorithm that was not proposed")
        self._algorithm = chosen
        identifier = _identifier(keys)
        challenge = _binary(keys, "CHAP_C", LONGEST_CHALLENGE)
        own = self._account.initiator
        answer = response_of(chosen, identifier, own.secret, challenge)
        pairs = [("CHAP_N", own.name), ("CHAP_R", format_binary(answer))]
        if not self._is_proved:
            drawn = self._chance(1 + digest_size(chosen))
            self._identifier, self._challenge = drawn[0], drawn[1:]
            if hmac.compare_digest(self._challenge, challenge):
                raise refused("the target knew our challenge before it was made")
            pairs += [
                ("CHAP_I", str(self._identifier)),
                ("CHAP_C", format_binary(self._challenge)),
            ]
        self.has_answered = True
        return pairs

    def _verify(self, keys: Mapping[str, str]) -> None:
        if keys.keys() != {"CHAP_N", "CHAP_R"}:
            raise refused("the target's proof is CHAP_N and CHAP_R")
        target = self._account.target
        assert target is not None
        given = _binary(keys, "CHAP_R", LONGEST_CHALLENGE)
        right = response_of(self._algorithm, self._identifier, target.secret, self._challenge)
        is_name = hmac.compare_digest(target.name.encode(), keys["CHAP_N"].encode())
        if not hmac.compare_digest(right, given) or not is_name:
            self.was_wrong = True
            raise refused("the target did not prove that it is the one it should be")
        self._is_proved = True


_NOBODY = Account(Secret("", b"\0" * 16))
"""Worked through where there is no account, so that this takes as long as with one."""


def _first_known(text: str) -> Algorithm | None:
    """The first algorithm of a CHAP_A list that is known here."""
    for item in text.split(","):
        try:
            return Algorithm(parse_number(item))
        except ValueError:
            continue
    return None


def _identifier(keys: Mapping[str, str]) -> int:
    try:
        value = parse_number(keys["CHAP_I"])
    except ValueError:
        value = 256
    if value > 255:
        raise refused("CHAP_I is no number of one byte")
    return value


def _binary(keys: Mapping[str, str], name: str, longest: int) -> bytes:
    try:
        return parse_binary(keys[name], longest)
    except ValueError as reason:
        raise refused(f"{name}: {reason}") from None
