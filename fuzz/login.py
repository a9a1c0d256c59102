"""Invariant: any sequence of login PDUs ends in a login, a refusal with its status, or goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daiko.iscsi.chap import Account, InitiatorChap, Secret, TargetChap
from daiko.iscsi.error import LoginStatus, RemoteProtocolError
from daiko.iscsi.login import Admission, Identity, InitiatorLogin, TargetLogin
from daiko.iscsi.pdu import LoginRequest, LoginResponse

INITIATOR = "iqn.2026-11.net.daiko:host"
TARGET = "iqn.2026-11.net.daiko:target"
MOST = 12
"""PDUs of one case."""

# A case: bit 0 of the first byte = the role under test (0 target, 1 initiator), bit 1 = discovery,
# bit 2 = CHAP in both directions; then PDUs, each a header of 48 bytes, the length of its text in
# two bytes, and the text.


ACCOUNT = Account(Secret("host", b"secret of the host"), Secret("array", b"secret of the array"))


def _chance(length: int) -> bytes:
    """The same in each run, so that a whole exchange can stand in the corpus."""
    return bytes(range(7, 7 + length))


def _other_chance(length: int) -> bytes:
    return bytes(range(77, 77 + length))


def _target(flags: int) -> TargetLogin:
    def admit(identity: Identity) -> Admission:
        if identity.target_name not in ("", TARGET):
            return Admission(LoginStatus.NOT_FOUND)
        if flags & 4:
            return Admission(tsih=1, authenticator=TargetChap([ACCOUNT], _chance))
        return Admission(tsih=1)

    return TargetLogin(admit)


def _entry(item: LoginRequest | LoginResponse) -> bytes:
    text = bytes(item.data)
    return item.pack() + len(text).to_bytes(2, "big") + text


def _initiator(flags: int) -> InitiatorLogin:
    return InitiatorLogin(
        INITIATOR,
        None if flags & 2 else TARGET,
        b"\x80" + bytes(5),
        authenticator=InitiatorChap(ACCOUNT, _other_chance) if flags & 4 else None,
    )


def _dialogue(flags: int) -> tuple[list[LoginRequest], list[LoginResponse]]:
    """A whole login between our own two sides."""
    initiator, target = _initiator(flags), _target(flags)
    requests, responses = [initiator.start()], []
    while True:
        response, goes_on = target.receive(requests[-1])
        assert goes_on
        responses.append(response)
        request = initiator.receive(response)
        if request is None:
            return requests, responses
        requests.append(request)


def corpus() -> list[bytes]:
    cases = []
    for flags in (0, 2, 4, 6):
        requests, responses = _dialogue(flags)
        cases.append(bytes((flags,)) + b"".join(map(_entry, requests)))
        cases.append(bytes((flags | 1,)) + b"".join(map(_entry, responses)))
        cases += [bytes((flags,)) + _entry(request) for request in requests]
    return cases


def _pdus(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 1
    for _ in range(MOST):
        if at + 50 > len(data):
            return
        end = at + 50 + int.from_bytes(data[at + 48 : at + 50], "big")
        yield data[at : at + 48], data[at + 50 : end]
        at = end


def _as_target(data: bytes) -> bool:
    login = _target(data[0])
    for header, text in _pdus(data):
        response, goes_on = login.receive(LoginRequest.parse(header, 0, text))
        assert len(response.pack()) == 48
        assert goes_on == (response.status == LoginStatus.SUCCESS)
        assert LoginResponse.parse(response.pack(), 0, response.data).pack() == response.pack()
        if not goes_on:
            assert login.refusal
            return False
        if login.parameters is not None:
            assert login.identity is not None
            assert login.identity.initiator_name
            return True
    return False


def _as_initiator(data: bytes) -> bool:
    login = _initiator(data[0])
    assert len(login.start().pack()) == 48
    for header, text in _pdus(data):
        try:
            request = login.receive(LoginResponse.parse(header, 0, text))
        except RemoteProtocolError:
            return False
        if request is None:
            assert login.parameters is not None
            return True
        assert len(request.pack()) == 48
    return False


def check(data: bytes) -> bool:
    if not data:
        return False
    role: Callable[[bytes], bool] = _as_initiator if data[0] & 1 else _as_target
    return role(data)
