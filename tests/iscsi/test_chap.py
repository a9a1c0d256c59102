"""CHAP: values computed elsewhere, both roles through whole logins, every way to be refused."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.iscsi.chap import (
    ALGORITHMS,
    KEYS,
    LONGEST_CHALLENGE,
    Account,
    Algorithm,
    InitiatorChap,
    Secret,
    TargetChap,
    digest_size,
    format_binary,
    name_fault,
    parse_binary,
    response_of,
    secret_fault,
)
from daiko.iscsi.error import LoginRefused, LoginStatus, RemoteProtocolError
from daiko.iscsi.login import Admission, InitiatorLogin, TargetLogin
from daiko.iscsi.pdu import LoginRequest, LoginResponse
from daiko.iscsi.text_key import format_text, parse_text

ISID = bytes.fromhex("800000000001")
HOST = Secret("host", b"secret of the host")
ARRAY = Secret("array", b"secret of the array")
ONE_WAY = Account(HOST)
MUTUAL = Account(HOST, ARRAY)


class Dice:
    """Chance that a test can foresee."""

    def __init__(self, seed: int = 1) -> None:
        self._next = itertools.count(seed)

    def __call__(self, length: int) -> bytes:
        return bytes(next(self._next) % 256 for _ in range(length))


# --- values


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        # openssl dgst -md5 … over 27, "correct horse", 01 02 … 10
        (Algorithm.MD5, "a0dd7ed34e2db6355175534567fbee7e"),
        (Algorithm.SHA_1, "d0a1c4c04f5791fb41ed956082701632da2c01e4"),
        (
            Algorithm.SHA_256,
            "71bf7d0a806931fc394c6a2c9f42ed27d668f9b07d158ca5a2bd4c8ce8a1c60d",
        ),
        (
            Algorithm.SHA3_256,
            "616af1f8ad8f173ea43be133401a587b6442385958a7a5b2df621bbeb6db3f8f",
        ),
    ],
)
def test_response_is_what_openssl_computes(algorithm: Algorithm, expected: str) -> None:
    challenge = bytes(range(1, 17))
    assert response_of(algorithm, 0x27, b"correct horse", challenge).hex() == expected
    assert digest_size(algorithm) == len(expected) // 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x00ff", b"\x00\xff"),
        ("0X00Ff", b"\x00\xff"),
        ("0xfff", b"\x0f\xff"),
        ("0bAP8=", b"\x00\xff"),
        ("0BAP8=", b"\x00\xff"),
    ],
)
def test_binary_value_is_read(text: str, value: bytes) -> None:
    assert parse_binary(text, 16) == value


@pytest.mark.parametrize(
    "text",
    ["", "0x", "0b", "00ff", "0xgg", "0x 1", "0x1_2", "0bA", "0b!!!!", "0bAP8", "0x" + "00" * 17,
     "0b" + base64.b64encode(bytes(17)).decode(), "0bé", "0xé"],
)  # fmt: skip
def test_malformed_binary_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_binary(text, 16)
    assert "gg" not in str(caught.value)


@given(st.binary(min_size=1, max_size=LONGEST_CHALLENGE))
def test_binary_value_survives_both_encodings(value: bytes) -> None:
    assert parse_binary(format_binary(value), LONGEST_CHALLENGE) == value
    in_base64 = "0b" + base64.b64encode(value).decode()
    assert parse_binary(in_base64, LONGEST_CHALLENGE) == value


@pytest.mark.parametrize(
    ("length", "is_allowed"), [(0, False), (11, False), (12, True), (255, True), (256, False)]
)
def test_secret_has_96_bits_at_least(length: int, is_allowed: bool) -> None:
    assert (secret_fault(b"x" * length) == "") is is_allowed


@pytest.mark.parametrize(
    ("name", "is_allowed"),
    [("", False), ("host", True), ("n" * 255, True), ("n" * 256, False), ("a\nb", False)],
)
def test_name_is_printable_and_short_enough(name: str, is_allowed: bool) -> None:
    assert (name_fault(name) == "") is is_allowed


def test_secrets_are_in_no_repr() -> None:
    assert "secret of" not in repr(MUTUAL)
    assert "secret of" not in repr(TargetChap([MUTUAL], Dice()))


# --- whole logins


def log_in(
    initiator: InitiatorLogin, responder: TargetLogin
) -> tuple[list[LoginRequest], list[LoginResponse]]:
    """Both sides to the end. Raises what the initiator raises."""
    requests, responses = [initiator.start()], []
    for _ in range(20):
        response, _ = responder.receive(
            LoginRequest.parse(requests[-1].pack(), 0, requests[-1].data)
        )
        responses.append(response)
        request = initiator.receive(LoginResponse.parse(response.pack(), 0, response.data))
        if request is None:
            return requests, responses
        requests.append(request)
    raise AssertionError("the login does not end")


def initiator(
    account: Account | None, *, discovery: bool = False, algorithms: Any = ALGORITHMS
) -> InitiatorLogin:
    chap = None if account is None else InitiatorChap(account, Dice(9), algorithms=algorithms)
    return InitiatorLogin("iqn.i", None if discovery else "iqn.t", ISID, authenticator=chap)


def target(*accounts: Account, required: bool = True) -> TargetLogin:
    return TargetLogin(
        lambda identity: Admission(
            tsih=7,
            authenticator=TargetChap(accounts, Dice()),
            is_authentication_required=required,
        )
    )


@pytest.mark.parametrize("discovery", [False, True], ids=["normal", "discovery"])
@pytest.mark.parametrize("account", [ONE_WAY, MUTUAL], ids=["one-way", "mutual"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_login_succeeds_with_every_algorithm(
    algorithm: Algorithm, account: Account, discovery: bool
) -> None:
    ours = initiator(account, discovery=discovery, algorithms=[algorithm])
    theirs = target(MUTUAL)
    requests, responses = log_in(ours, theirs)
    assert ours.parameters is not None
    assert theirs.parameters is not None
    texts = [dict(parse_text(pdu.data)) for pdu in (*requests, *responses)]
    assert {"CHAP_A": str(int(algorithm))} in texts
    proofs = [text for text in texts if "CHAP_R" in text]
    assert len(proofs) == 1 + (account is MUTUAL)
    # The initiator leaves the stage with its answer, as RFC 7143 shows it, and needs no round more.
    assert len(requests) == 4


def test_login_over_the_wire_is_the_exchange_of_the_rfc() -> None:
    requests, responses = log_in(initiator(MUTUAL), target(MUTUAL))
    told = [dict(parse_text(pdu.data)) for pdu in requests]
    answered = [dict(parse_text(pdu.data)) for pdu in responses]
    assert told[0]["AuthMethod"] == "CHAP"
    assert answered[0] == {"TargetPortalGroupTag": "1", "AuthMethod": "CHAP"}
    assert told[1] == {"CHAP_A": "8,7,6,5"}
    assert answered[1].keys() == {"CHAP_A", "CHAP_I", "CHAP_C"}
    assert answered[1]["CHAP_A"] == "8"
    challenge = parse_binary(answered[1]["CHAP_C"], 1024)
    right = response_of(Algorithm.SHA3_256, int(answered[1]["CHAP_I"]), HOST.secret, challenge)
    assert told[2]["CHAP_N"] == "host"
    assert told[2]["CHAP_R"] == "0x" + right.hex()
    assert requests[2].transit
    back = parse_binary(told[2]["CHAP_C"], 1024)
    proof = response_of(Algorithm.SHA3_256, int(told[2]["CHAP_I"]), ARRAY.secret, back)
    assert answered[2] == {"CHAP_N": "array", "CHAP_R": "0x" + proof.hex()}


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ("5", Algorithm.MD5),
        ("5,7", Algorithm.MD5),
        ("7,5", Algorithm.SHA_256),
        ("9,127,6,5", Algorithm.SHA_1),
        ("0x8,5", Algorithm.SHA3_256),
        ("junk,5", Algorithm.MD5),
    ],
)
def test_target_takes_the_first_algorithm_of_the_list_that_it_knows(
    proposed: str, chosen: Algorithm
) -> None:
    chap = TargetChap([ONE_WAY], Dice())
    answer = dict(chap.take({"CHAP_A": proposed}))
    assert answer["CHAP_A"] == str(int(chosen))
    assert len(parse_binary(answer["CHAP_C"], 1024)) == digest_size(chosen)


def test_any_of_several_accounts_will_do() -> None:
    other = Account(Secret("other", b"another host's one"))
    theirs = target(other, ONE_WAY)
    log_in(initiator(ONE_WAY), theirs)
    assert theirs.parameters is not None


@pytest.mark.parametrize(
    ("account", "required", "offer"),
    [
        pytest.param(None, False, "None", id="optional-none"),
        pytest.param(ONE_WAY, False, "CHAP,None", id="optional-chap"),
        pytest.param(ONE_WAY, True, "CHAP,None", id="required-chap"),
        pytest.param(MUTUAL, True, "CHAP", id="required-mutual"),
    ],
)
def test_method_is_what_both_want(account: Account | None, required: bool, offer: str) -> None:
    requests, responses = log_in(initiator(account), target(MUTUAL, required=required))
    assert dict(parse_text(requests[0].data))["AuthMethod"] == offer
    answered = dict(parse_text(responses[0].data))["AuthMethod"]
    assert answered == ("None" if account is None else "CHAP")


def test_target_without_authentication_lets_a_one_way_initiator_in() -> None:
    theirs = TargetLogin(lambda identity: Admission(tsih=7))
    log_in(initiator(ONE_WAY), theirs)
    assert theirs.parameters is not None


# --- refusals


def refusal(ours: InitiatorLogin, theirs: TargetLogin) -> tuple[int, str]:
    with pytest.raises(LoginRefused) as caught:
        log_in(ours, theirs)
    assert theirs.parameters is None
    return caught.value.status, theirs.refusal


WRONG_SECRET = Account(Secret("host", b"not the host's one"))
WRONG_NAME = Account(Secret("toast", HOST.secret))


@pytest.mark.parametrize(
    ("account", "accounts", "words"),
    [
        pytest.param(WRONG_SECRET, [ONE_WAY], "a wrong CHAP secret", id="wrong-secret"),
        pytest.param(WRONG_NAME, [ONE_WAY], "an unknown CHAP user", id="unknown-name"),
        pytest.param(ONE_WAY, [], "an unknown CHAP user", id="no-account"),
        pytest.param(
            Account(Secret("", b"\0" * 16)), [], "an unknown CHAP user", id="the-decoy-itself"
        ),
        pytest.param(
            Account(Secret("host", b"")), [Account(Secret("host", b""))], "an unknown CHAP user",
            id="no-secret-set",
        ),
        pytest.param(
            Account(HOST, ARRAY), [ONE_WAY],
            "the initiator wants this target to prove itself; it has no secret to", id="no-proof",
        ),
        pytest.param(
            Account(HOST, ARRAY), [Account(HOST, Secret("array", HOST.secret))],
            "one CHAP secret is set for both directions", id="same-secret",
        ),
    ],
)  # fmt: skip
def test_login_is_refused(account: Account, accounts: list[Account], words: str) -> None:
    status, said = refusal(initiator(account), target(*accounts))
    assert status == LoginStatus.AUTHENTICATION_FAILURE
    assert said == words


def test_unknown_name_and_wrong_secret_look_the_same_from_outside() -> None:
    seen = []
    for account in (WRONG_SECRET, WRONG_NAME):
        theirs = target(ONE_WAY)
        ours = initiator(account)
        pdu: LoginRequest | None = ours.start()
        heard = []
        goes_on = True
        while goes_on:
            assert pdu is not None
            response, goes_on = theirs.receive(pdu)
            heard.append((response.pack(), bytes(response.data)))
            if goes_on:
                pdu = ours.receive(response)
        seen.append(heard)
    assert seen[0] == seen[1]


def test_initiator_refuses_a_target_that_does_not_prove_itself() -> None:
    ours = initiator(Account(HOST, Secret("array", b"another array's one")))
    with pytest.raises(RemoteProtocolError, match="did not prove"):
        log_in(ours, target(MUTUAL))
    assert ours.parameters is None


def test_initiator_refuses_a_target_of_another_name() -> None:
    ours = initiator(Account(HOST, Secret("tray", ARRAY.secret)))
    with pytest.raises(RemoteProtocolError, match="did not prove"):
        log_in(ours, target(MUTUAL))


def test_mutual_initiator_takes_no_login_without_authentication() -> None:
    """A target that simply goes on is no target that proved itself."""
    ours = initiator(MUTUAL)
    ours.start()
    with pytest.raises(RemoteProtocolError):
        ours.receive(LoginResponse(True, False, 0, 1, ISID, data=b"TargetPortalGroupTag=1\0"))
    ours = initiator(MUTUAL)
    ours.start()
    with pytest.raises(RemoteProtocolError):
        ours.receive(LoginResponse(False, False, 0, 0, ISID, data=b"AuthMethod=None\0"))


def test_mutual_initiator_is_not_led_past_the_proof() -> None:
    """The target answers the initiator's last word with the transit, and without a proof."""
    ours, theirs = initiator(MUTUAL), target(MUTUAL)
    pdu = ours.start()
    for _ in range(2):
        response, _ = theirs.receive(pdu)
        following = ours.receive(response)
        assert following is not None
        pdu = following
    assert pdu.transit
    with pytest.raises(RemoteProtocolError, match="did not authenticate"):
        ours.receive(LoginResponse(True, False, 0, 1, ISID, stat_sn=2))


def test_challenge_that_comes_back_is_refused() -> None:
    chap = TargetChap([MUTUAL], Dice())
    asked = dict(chap.take({"CHAP_A": "7"}))
    challenge = parse_binary(asked["CHAP_C"], 1024)
    right = response_of(Algorithm.SHA_256, int(asked["CHAP_I"]), HOST.secret, challenge)
    with pytest.raises(RemoteProtocolError, match="reflection") as caught:
        chap.take(
            {
                "CHAP_N": "host", "CHAP_R": format_binary(right),
                "CHAP_I": "3", "CHAP_C": asked["CHAP_C"],
            }
        )  # fmt: skip
    assert caught.value.login == LoginStatus.AUTHENTICATION_FAILURE
    assert not chap.is_complete


def answered(chap: TargetChap, **changes: str | None) -> list[tuple[str, str]]:
    """The right answer to the target's challenge, but for `changes`."""
    asked = dict(chap.take({"CHAP_A": "5"}))
    challenge = parse_binary(asked["CHAP_C"], 1024)
    right = response_of(Algorithm.MD5, int(asked["CHAP_I"]), HOST.secret, challenge)
    keys: dict[str, str | None] = {
        "CHAP_N": "host", "CHAP_R": format_binary(right), "CHAP_I": "255",
        "CHAP_C": format_binary(bytes(LONGEST_CHALLENGE)), **changes,
    }  # fmt: skip
    return chap.take({name: value for name, value in keys.items() if value is not None})


def test_challenge_of_1024_bytes_is_answered() -> None:
    pairs = answered(TargetChap([MUTUAL], Dice()))
    proof = response_of(Algorithm.MD5, 255, ARRAY.secret, bytes(LONGEST_CHALLENGE))
    assert pairs == [("CHAP_N", "array"), ("CHAP_R", format_binary(proof))]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"CHAP_N": None}, id="no-name"),
        pytest.param({"CHAP_R": None}, id="no-response"),
        pytest.param({"CHAP_I": None}, id="challenge-without-identifier"),
        pytest.param({"CHAP_C": None}, id="identifier-without-challenge"),
        pytest.param({"CHAP_A": "5"}, id="algorithm-again"),
        pytest.param({"CHAP_R": "0x"}, id="empty-response"),
        pytest.param({"CHAP_R": "secret of the host"}, id="secret-in-clear"),
        pytest.param({"CHAP_R": "0x" + "00" * 16}, id="zeros"),
        pytest.param({"CHAP_I": "256"}, id="identifier-of-two-bytes"),
        pytest.param({"CHAP_I": "-1"}, id="negative-identifier"),
        pytest.param({"CHAP_C": "0x" + "00" * 1025}, id="challenge-too-long"),
    ],
)
def test_malformed_answer_is_refused(changes: dict[str, str | None]) -> None:
    chap = TargetChap([MUTUAL], Dice())
    with pytest.raises(RemoteProtocolError) as caught:
        answered(chap, **changes)
    assert caught.value.login == LoginStatus.AUTHENTICATION_FAILURE
    assert "secret of" not in str(caught.value)
    assert not chap.is_complete


def test_nothing_follows_a_finished_exchange() -> None:
    chap = TargetChap([MUTUAL], Dice())
    answered(chap)
    assert chap.is_complete
    with pytest.raises(RemoteProtocolError):
        chap.take({"CHAP_A": "5"})


@pytest.mark.parametrize(
    "keys",
    [
        {"CHAP_A": "5"},
        {"CHAP_A": "5", "CHAP_I": "1"},
        {"CHAP_A": "6", "CHAP_I": "1", "CHAP_C": "0x01"},
        {"CHAP_A": "5,7", "CHAP_I": "1", "CHAP_C": "0x01"},
        {"CHAP_A": "99", "CHAP_I": "1", "CHAP_C": "0x01"},
        {"CHAP_A": "5", "CHAP_I": "300", "CHAP_C": "0x01"},
        {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "01"},
        {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x" + "00" * 1025},
        {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x01", "CHAP_N": "x"},
    ],
)
def test_initiator_refuses_a_challenge(keys: dict[str, str]) -> None:
    chap = InitiatorChap(ONE_WAY, Dice(), algorithms=[Algorithm.MD5])
    assert chap.take({}) == [("CHAP_A", "5")]
    with pytest.raises(RemoteProtocolError):
        chap.take(keys)
    assert not chap.is_complete


TEXT = st.text(max_size=40) | st.sampled_from(["5", "7", "0x00", "0bAA==", "host", "256", "0xff"])
TEXTS = st.dictionaries(st.sampled_from(sorted(KEYS)), TEXT)


@given(st.lists(TEXTS, max_size=5))
def test_no_text_without_the_secret_gets_in(texts: list[Mapping[str, str]]) -> None:
    """Whatever comes: an answer, or 0201h; never the end of the exchange."""
    chap = TargetChap([MUTUAL], Dice())
    for keys in texts:
        refusal: RemoteProtocolError | None = None
        pairs: list[tuple[str, str]] = []
        try:
            pairs = chap.take(keys)
        except RemoteProtocolError as error:
            refusal = error
        assert "CHAP_R" not in dict(pairs)
        if refusal is not None:
            assert refusal.login == LoginStatus.AUTHENTICATION_FAILURE
            break
    assert not chap.is_complete


@given(st.lists(TEXTS, max_size=5), st.sampled_from([ONE_WAY, MUTUAL]))
def test_initiator_survives_any_text(texts: list[Mapping[str, str]], account: Account) -> None:
    chap = InitiatorChap(account, Dice())
    with contextlib.suppress(RemoteProtocolError):
        for keys in ({}, *texts):
            chap.take(keys)
    assert not (chap.is_complete and account is MUTUAL)


@given(st.integers(1, 60))
def test_exchange_in_small_pdus_ends_the_same(size: int) -> None:
    """The C bit in the security stage: each text of the initiator in pieces."""
    ours, theirs = initiator(MUTUAL), target(MUTUAL)
    pdu: LoginRequest | None = ours.start()
    while pdu is not None:
        data, transit = bytes(pdu.data), pdu.transit
        parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for number, part in enumerate(parts):
            more = number < len(parts) - 1
            response, goes_on = theirs.receive(
                LoginRequest(
                    transit and not more, more, pdu.current_stage,
                    pdu.next_stage if transit and not more else 0, ISID, 0, 0, 0, 1, data=part,
                )
            )  # fmt: skip
            assert goes_on
        pdu = ours.receive(response)
    assert theirs.parameters is not None


def test_login_without_a_method_is_refused_at_once() -> None:
    text = format_text([("InitiatorName", "iqn.i"), ("TargetName", "iqn.t")])
    for fields in ({"current_stage": 0, "next_stage": 1}, {"current_stage": 1, "next_stage": 3}):
        login = target(ONE_WAY)
        response, goes_on = login.receive(
            LoginRequest(True, False, isid=ISID, cmd_sn=1, data=text, **fields)  # type: ignore[arg-type]
        )
        assert (goes_on, response.status) == (False, LoginStatus.AUTHENTICATION_FAILURE)
        assert login.refusal == "authentication is required"
