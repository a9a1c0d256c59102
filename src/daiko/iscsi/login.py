"""The login phase, both roles (RFC 7143, 6.3, 11.12, 11.13).

`STAGES` is the law for both: in which stage a PDU may be, given the stage the login is in, and to
which stages a transit (T bit) may lead. `TargetLogin` answers requests, `InitiatorLogin` makes
them; each ends with `parameters`, or with a status.

Authentication has its place: an `Authenticator` (AuthMethod other than None) takes part in the
security stage, and no login gets past that stage without it. `chap.py` has CHAP's two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from daiko.iscsi.bhs import Stage
from daiko.iscsi.error import (
    LocalProtocolError,
    LoginRefused,
    LoginStatus,
    RemoteProtocolError,
)
from daiko.iscsi.negotiation import OFFER, Negotiation, Offer, Parameters
from daiko.iscsi.pdu import LoginRequest, LoginResponse
from daiko.iscsi.text_key import (
    KEYS,
    LONGEST_VALUE,
    NONE,
    Sender,
    TextCollector,
    When,
    error,
    format_text,
    parse_unique,
    split_text,
)

SECURITY = Stage.SECURITY_NEGOTIATION
OPERATIONAL = Stage.OPERATIONAL_NEGOTIATION
FULL_FEATURE = Stage.FULL_FEATURE_PHASE

STAGES: dict[tuple[Stage | None, int], frozenset[Stage]] = {
    # (stage of the login, CSG of the PDU) -> NSG values of a transit. A pair not here is illegal.
    (None, SECURITY): frozenset({OPERATIONAL, FULL_FEATURE}),
    (None, OPERATIONAL): frozenset({FULL_FEATURE}),
    (SECURITY, SECURITY): frozenset({OPERATIONAL, FULL_FEATURE}),
    (OPERATIONAL, OPERATIONAL): frozenset({FULL_FEATURE}),
}

USES: dict[Stage, frozenset[When]] = {
    SECURITY: frozenset({When.SECURITY, When.ALL, When.INITIALIZE, When.LEADING}),
    OPERATIONAL: frozenset({When.ALL, When.INITIALIZE, When.LEADING}),
}
"""Which keys a stage may carry; `_SECURITY_KEYS` narrows the first."""

_SECURITY_KEYS = frozenset(
    {
        "AuthMethod",
        "InitiatorName",
        "InitiatorAlias",
        "SessionType",
        "TargetAddress",
        "TargetAlias",
        "TargetName",
        "TargetPortalGroupTag",
    }
)
"""Keys of the table that are allowed in the security stage (6.3.2: no operational keys)."""

LOGIN_PDU_LIMIT = 8192
"""Bytes: the default MaxRecvDataSegmentLength, which holds for every PDU of a login."""
LONGEST_NAME = 223
"""Bytes of an iSCSI name (4.2.7.1)."""
_NO_PROOF = LoginStatus.AUTHENTICATION_FAILURE


class Authenticator(Protocol):
    """One run of an authentication method, in either role."""

    method: str
    """Value of AuthMethod."""
    keys: frozenset[str]
    """Text keys that belong to it."""
    was_wrong: bool
    """Whether the peer gave a proof that is none: it may be guessing."""

    @property
    def is_complete(self) -> bool:
        """Whether the peer has proved what it had to."""

    def take(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        """The peer's keys; our answer. Raises RemoteProtocolError with the login status."""


class InitiatorAuthenticator(Authenticator, Protocol):
    """The initiator's: it begins, with a `take` of no keys."""

    @property
    def is_mutual(self) -> bool:
        """Whether the target has to prove itself, so that a login without is no use."""

    @property
    def has_answered(self) -> bool:
        """Whether nothing more is to be said: the stage may be left with the answer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks to log in, and to what: the leading request's header and first keys."""

    initiator_name: str
    target_name: str
    """Empty in a discovery session."""
    is_discovery: bool
    isid: bytes
    """6 bytes."""
    tsih: int
    cid: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What the target answers to an `Identity`."""

    status: LoginStatus = LoginStatus.SUCCESS
    tsih: int = 0
    """Handle for the new session."""
    portal_group_tag: int = 1
    alias: str = ""
    address: str = ""
    """TargetAddress of a redirection (status class 1)."""
    offer: Offer = field(default_factory=lambda: OFFER)
    authenticator: Authenticator | None = None
    """None: only AuthMethod=None is there."""
    is_authentication_required: bool = True
    """False: an `authenticator` is there for initiators that want it; None will do as well."""
    confirm: Callable[[], LoginStatus] | None = None
    """Asked once more when everything is settled: much may have happened since the admission."""


Admit = Callable[[Identity], Admission]


class TargetLogin:
    """The target's side of one login."""

    __slots__ = (
        "_admission",
        "_admit",
        "_authenticator",
        "_collector",
        "_declared",
        "_first",
        "_must_authenticate",
        "_outgoing",
        "_reply_stage",
        "_stage",
        "_window",
        "identity",
        "negotiation",
        "parameters",
        "refusal",
        "stat_sn",
    )

    def __init__(self, admit: Admit, *, window: int = 128) -> None:
        self._admit = admit
        self._window = window
        self._collector = TextCollector()
        self._stage: Stage | None = None
        self._first: LoginRequest | None = None
        self._admission = Admission()
        self._authenticator: Authenticator | None = None
        self._must_authenticate = False
        self._declared: set[str] = set()
        self._outgoing: list[bytes] = []
        self._reply_stage: Stage | None = None
        self.identity: Identity | None = None
        """Known from the first complete text on."""
        self.negotiation = Negotiation(Sender.TARGET, OFFER)
        self.parameters: Parameters | None = None
        """The outcome; None until the login has succeeded."""
        self.stat_sn = 0
        """StatSN of the next PDU that carries one."""
        self.refusal = ""
        """Why the login was refused, for the administrator."""

    @property
    def tsih(self) -> int:
        return self._admission.tsih

    @property
    def cmd_sn(self) -> int:
        """The CmdSN that the first command of the session will carry."""
        assert self._first is not None
        return self._first.cmd_sn

    @property
    def is_started(self) -> bool:
        return self._first is not None

    def forget(self) -> None:
        """The connection is gone: let go of what has come of a text. (It is part of a cycle, which
        the collector may find much later.)"""
        self._collector = TextCollector()
        self._outgoing = []

    def refuse(self, status: LoginStatus) -> LoginResponse:
        """The response that ends a login for a cause outside its own requests."""
        assert self._first is not None
        return self._response(self._first, status)

    def receive(self, request: LoginRequest) -> tuple[LoginResponse, bool]:
        """Answer a request: the response, and whether the login goes on (or has succeeded).

        After False the connection is closed once the response is sent (6.3)."""
        try:
            return self._answer(request), True
        except RemoteProtocolError as refusal:
            self.refusal = str(refusal)
            status = LoginStatus.INITIATOR_ERROR if refusal.login is None else refusal.login
            response = self._response(request, status=status)
            if self._admission.address and status >> 8 == 1:
                response.data = format_text([("TargetAddress", self._admission.address)])
            return response, False

    def _answer(self, request: LoginRequest) -> LoginResponse:
        if self.parameters is not None:
            raise error("a login request after the login", LoginStatus.INVALID_DURING_LOGIN)
        first = self._first
        if first is None:
            self._first = request
            if request.version_min > 0:
                raise error("no common version", LoginStatus.UNSUPPORTED_VERSION)
        elif (request.isid, request.tsih, request.cid, request.initiator_task_tag) != (
            first.isid, first.tsih, first.cid, first.initiator_task_tag,
        ):  # fmt: skip
            raise error("the login changes its identity half way")
        transits = STAGES.get((self._stage, request.current_stage))
        if transits is None:
            raise error("the login is not in the stage of the request")
        if request.transit and request.next_stage not in transits:
            raise error("no transit leads to that stage")
        if request.transit and request.continued:
            raise error("T and C are both set")
        self._stage = Stage(request.current_stage)
        if self._outgoing:
            if request.data or request.transit:
                raise error("the rest of our text is due, not the initiator's")
            return self._next_piece(request)
        text = self._collector.add(request.data, request.continued)
        if text is None:
            return self._response(request)
        return self._take(request, parse_unique(text))

    def _take(self, request: LoginRequest, keys: dict[str, str]) -> LoginResponse:
        """A complete text of the initiator."""
        pairs: list[tuple[str, str]] = []
        if self.identity is None:
            self._identify(request, keys)
            if not self.negotiation.is_discovery:
                pairs.append(("TargetPortalGroupTag", str(self._admission.portal_group_tag)))
            if self._admission.alias:
                pairs.append(("TargetAlias", self._admission.alias))
        if self._stage is SECURITY:
            pairs += self._authenticate(keys)
        elif not self._is_authenticated:
            raise error("authentication is required", LoginStatus.AUTHENTICATION_FAILURE)
        assert self._stage is not None
        pairs += self.negotiation.take(keys, USES[self._stage])
        limit = "MaxRecvDataSegmentLength"
        if self._stage is OPERATIONAL and limit not in self._declared:
            self._declared.add(limit)
            pairs += self.negotiation.propose([limit])
        if request.transit and self._is_authenticated:
            self._reply_stage = Stage(request.next_stage)
        self._outgoing = list(split_text(format_text(pairs), LOGIN_PDU_LIMIT))
        return self._next_piece(request)

    @property
    def _is_authenticated(self) -> bool:
        authenticator = self._authenticator
        return not self._must_authenticate or (
            authenticator is not None and authenticator.is_complete
        )

    def _identify(self, request: LoginRequest, keys: dict[str, str]) -> None:
        """The first text says who and what (6.3.1)."""
        missing = LoginStatus.MISSING_PARAMETER
        name = keys.get("InitiatorName")
        if not name:
            raise error("InitiatorName is missing", missing)
        kind = keys.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise error("no such SessionType", LoginStatus.SESSION_TYPE_NOT_SUPPORTED)
        is_discovery = kind == "Discovery"
        target = keys.get("TargetName", "")
        if not target and not is_discovery:
            raise error("TargetName is missing", missing)
        if max(len(name.encode()), len(target.encode())) > LONGEST_NAME:
            raise error("an iSCSI name is longer than 223 bytes")
        self.identity = Identity(
            name, "" if is_discovery else target, is_discovery, request.isid, request.tsih,
            request.cid,
        )  # fmt: skip
        admission = self._admission = self._admit(self.identity)
        if admission.status is not LoginStatus.SUCCESS:
            raise error("not admitted", admission.status)
        authenticator = self._authenticator = admission.authenticator
        offer = dict(admission.offer)
        offer["AuthMethod"] = (NONE,)
        if authenticator is not None:
            self._must_authenticate = admission.is_authentication_required
            also = () if self._must_authenticate else (NONE,)
            offer["AuthMethod"] = (authenticator.method, *also)
        self.negotiation = Negotiation(Sender.TARGET, offer, is_discovery=is_discovery)

    def _authenticate(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        """The security stage: takes the keys of the method out of `keys`."""
        for name in keys:
            if name in KEYS and name not in _SECURITY_KEYS:
                raise error(f"{name} has no place in the security stage")
        authenticator = self._authenticator
        offered = self.negotiation.ours(KEYS["AuthMethod"])
        assert isinstance(offered, tuple)
        proposal = keys.get("AuthMethod")
        if proposal is not None:
            chosen = next((each for each in proposal.split(",") if each in offered), None)
            if chosen is None:
                raise error("no common AuthMethod", LoginStatus.AUTHENTICATION_FAILURE)
            # The initiator that names a method goes through with it, where None would do, too.
            self._must_authenticate = chosen != NONE
        elif self._must_authenticate and "AuthMethod" not in self.negotiation.settled:
            raise error("authentication is required", LoginStatus.AUTHENTICATION_FAILURE)
        if authenticator is None or not self._must_authenticate:
            return []
        own = {name: keys.pop(name) for name in authenticator.keys & keys.keys()}
        return authenticator.take(own) if own else []

    def _next_piece(self, request: LoginRequest) -> LoginResponse:
        """The next part of our text; the transit goes with the last."""
        response = self._response(request)
        response.data = self._outgoing.pop(0)
        if self._outgoing:
            response.continued = True
            return response
        if self._reply_stage is not None:
            response.transit = True
            response.next_stage = self._stage = self._reply_stage
            self._reply_stage = None
            if self._stage is FULL_FEATURE:
                self._conclude(response)
        return response

    def _conclude(self, response: LoginResponse) -> None:
        assert self.identity is not None
        confirm = self._admission.confirm
        status = LoginStatus.SUCCESS if confirm is None else confirm()
        if status is not LoginStatus.SUCCESS:
            raise error("no longer admitted", status)
        parameters = self.negotiation.parameters(declared_by_us=frozenset(self._declared))
        parameters.initiator_name = self.identity.initiator_name
        parameters.target_name = self.identity.target_name
        parameters.target_portal_group_tag = self._admission.portal_group_tag
        self.parameters = parameters
        response.tsih = self._admission.tsih

    def _response(
        self, request: LoginRequest, status: LoginStatus = LoginStatus.SUCCESS
    ) -> LoginResponse:
        """A response without text and transit. One of a failure does not advance StatSN."""
        stat_sn = self.stat_sn
        if status is LoginStatus.SUCCESS:
            self.stat_sn = stat_sn + 1 & 0xFFFFFFFF
        return LoginResponse(
            transit=False,
            continued=False,
            current_stage=request.current_stage,
            next_stage=0,
            isid=request.isid,
            tsih=request.tsih,
            initiator_task_tag=request.initiator_task_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=request.cmd_sn,
            max_cmd_sn=request.cmd_sn + self._window - 1 & 0xFFFFFFFF,
            status=status,
        )


INITIATOR_PROPOSALS = (
    "HeaderDigest", "DataDigest", "MaxConnections", "InitialR2T", "ImmediateData",
    "MaxRecvDataSegmentLength", "MaxBurstLength", "FirstBurstLength", "DefaultTime2Wait",
    "DefaultTime2Retain", "MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder",
    "ErrorRecoveryLevel",
)  # fmt: skip
"""Keys our initiator sends. iSCSIProtocolLevel and TaskReporting stay at their defaults: some
targets of before RFC 7143 refuse what they do not understand."""


class InitiatorLogin:
    """The initiator's side of one login."""

    __slots__ = (
        "_authenticator",
        "_collector",
        "_first_keys",
        "_is_proposed",
        "_outgoing",
        "_request_stage",
        "_stage",
        "_template",
        "_wants_transit",
        "exp_cmd_sn",
        "exp_stat_sn",
        "max_cmd_sn",
        "negotiation",
        "parameters",
        "target_alias",
        "tsih",
    )

    def __init__(
        self,
        initiator_name: str,
        target_name: str | None,
        isid: bytes,
        *,
        tsih: int = 0,
        cid: int = 0,
        cmd_sn: int = 1,
        initiator_task_tag: int = 0,
        initiator_alias: str = "",
        offer: Offer = OFFER,
        authenticator: InitiatorAuthenticator | None = None,
    ) -> None:
        """`target_name` None: a discovery session. `isid`: 6 bytes; same name and ISID again
        reinstates the session."""
        for name in (initiator_name, target_name or ""):
            if len(name.encode()) > min(LONGEST_NAME, LONGEST_VALUE):
                raise LocalProtocolError("an iSCSI name is longer than 223 bytes")
        self._authenticator = authenticator
        self._collector = TextCollector()
        self._stage = SECURITY
        self._request_stage: Stage | None = None
        self._wants_transit = False
        self._is_proposed = False
        self._outgoing: list[bytes] = []
        self._template = LoginRequest(
            False, False, SECURITY, 0, isid, tsih, initiator_task_tag, cid, cmd_sn
        )
        is_discovery = target_name is None
        keys = [("InitiatorName", initiator_name)]
        if initiator_alias:
            keys.append(("InitiatorAlias", initiator_alias))
        keys.append(("SessionType", "Discovery" if is_discovery else "Normal"))
        if target_name is not None:
            keys.append(("TargetName", target_name))
        self._first_keys = keys
        own = dict(offer)
        own["AuthMethod"] = (NONE,)
        if authenticator is not None:
            # A target that asks for nothing may let us in, unless it has to prove itself.
            also = () if authenticator.is_mutual else (NONE,)
            own["AuthMethod"] = (authenticator.method, *also)
        self.negotiation = Negotiation(Sender.INITIATOR, own, is_discovery=is_discovery)
        self.parameters: Parameters | None = None
        """The outcome; None until the login has succeeded."""
        self.exp_stat_sn = 0
        self.exp_cmd_sn = cmd_sn
        self.max_cmd_sn = cmd_sn
        self.tsih = tsih
        self.target_alias = ""

    @property
    def cmd_sn(self) -> int:
        """CmdSN of the first command after the login."""
        return self._template.cmd_sn

    def start(self) -> LoginRequest:
        """The first request."""
        pairs = [*self._first_keys, *self.negotiation.propose(["AuthMethod"])]
        # With a method to run, the transit waits for its end.
        return self._request(pairs, OPERATIONAL if self._authenticator is None else None)

    def receive(self, response: LoginResponse) -> LoginRequest | None:
        """The next request, or None when the login has succeeded (`parameters`).

        Raises LoginRefused with the target's status, RemoteProtocolError."""
        if response.status:
            address = None
            if response.status >> 8 == 1:
                address = parse_unique(response.data).get("TargetAddress")
            raise LoginRefused(response.status, address)
        self.exp_stat_sn = response.stat_sn + 1 & 0xFFFFFFFF
        self.exp_cmd_sn, self.max_cmd_sn = response.exp_cmd_sn, response.max_cmd_sn
        transits = STAGES.get((self._stage, response.current_stage))
        if transits is None or (response.transit and response.next_stage not in transits):
            raise error("the response is not of our stage")
        if response.transit and (
            not self._wants_transit or response.next_stage != self._request_stage
        ):
            raise error("the target makes a transit that was not asked for")
        text = self._collector.add(response.data, response.continued)
        if text is None:
            return self._piece(b"", more=False, transit=False)
        if self._outgoing:
            if text or response.transit:
                raise error("the rest of our text is due, not the target's")
            return self._next_piece()
        return self._take(response, parse_unique(text))

    def _take(self, response: LoginResponse, keys: dict[str, str]) -> LoginRequest | None:
        tag = keys.pop("TargetPortalGroupTag", None)
        answers: list[tuple[str, str]] = []
        authenticator = self._authenticator
        if self._stage is SECURITY and authenticator is not None:
            own = {name: keys.pop(name) for name in authenticator.keys & keys.keys()}
            method = keys.get("AuthMethod")
            if method == NONE and not authenticator.is_mutual:
                authenticator = self._authenticator = None
            elif own or method == authenticator.method:
                answers += authenticator.take(own)
        answers += self.negotiation.take(keys, USES[self._stage])
        if tag is not None:
            self.negotiation.declared["TargetPortalGroupTag"] = int(tag) if tag.isdigit() else 0
        if response.transit:
            # Targets that need no authentication often leave AuthMethod=None unanswered.
            self.negotiation.forgo("AuthMethod")
            self._check_authenticated()
            self._stage = Stage(response.next_stage)
            if self._stage is FULL_FEATURE:
                self._conclude(response)
                return None
        if self._stage is OPERATIONAL:
            if not self._is_proposed:
                self._is_proposed = True
                answers += self.negotiation.propose(INITIATOR_PROPOSALS)
            return self._request(answers, FULL_FEATURE)
        done = authenticator is None or authenticator.has_answered
        return self._request(answers, OPERATIONAL if done else None)

    def _check_authenticated(self) -> None:
        """The target ends the security stage: is that all right with us?"""
        authenticator = self._authenticator
        if self._stage is not SECURITY or authenticator is None or authenticator.is_complete:
            return
        if authenticator.is_mutual:
            raise error("the target did not authenticate itself", _NO_PROOF)
        # One that asked for no proof of ours; we did not insist on giving it.
        self._authenticator = None

    def _conclude(self, response: LoginResponse) -> None:
        declared = {"MaxRecvDataSegmentLength"} if self._is_proposed else set()
        made = self.negotiation.parameters(declared_by_us=frozenset(declared))
        first = dict(self._first_keys)
        made.initiator_name = first["InitiatorName"]
        made.target_name = first.get("TargetName", "")
        tag = self.negotiation.declared.get("TargetPortalGroupTag", 0)
        made.target_portal_group_tag = tag if isinstance(tag, int) else 0
        self.tsih = response.tsih
        self.parameters = made

    def _request(self, pairs: list[tuple[str, str]], transit_to: Stage | None) -> LoginRequest:
        self._wants_transit = transit_to is not None
        self._request_stage = transit_to
        self._outgoing = list(split_text(format_text(pairs), LOGIN_PDU_LIMIT))
        return self._next_piece()

    def _next_piece(self) -> LoginRequest:
        piece = self._outgoing.pop(0)
        more = bool(self._outgoing)
        return self._piece(piece, more=more, transit=self._wants_transit and not more)

    def _piece(self, data: bytes, *, more: bool, transit: bool) -> LoginRequest:
        template = self._template
        return LoginRequest(
            transit=transit,
            continued=more,
            current_stage=self._stage,
            next_stage=(self._request_stage or 0) if transit else 0,
            isid=template.isid,
            tsih=template.tsih,
            initiator_task_tag=template.initiator_task_tag,
            cid=template.cid,
            cmd_sn=template.cmd_sn,
            exp_stat_sn=self.exp_stat_sn,
            data=data,
        )
