"""A whole system as one TOML document: what `daiko apply` reads and `daiko export` writes.

    [system]
    mode = "delegate"

    [portal_group.1]
    portals = ["192.0.2.10:3260", "[2001:db8::10]:3260"]

    [portal_group.2]
    portals = ["198.51.100.10:3260"]
    target_port_group = 2

    [target_port_group.2]
    state = "active-non-optimized"

    [backend.sd1]
    iqn = "iqn.2026-11.com.example:sd1"
    portals = ["192.0.2.1:3260"]

    [backend.disk]
    path = "/srv/disk.img"

    [volume.alpha]
    extents = [{ device = "sd1/0", lba = 0, blocks = 4096 }]

    [volume.beta]
    size = "10 GiB"
    from = ["sd1/0", "disk/0"]

    [volume.old]
    image = "sd1/1"

    [host.h1]
    initiators = ["iqn.2026-11.com.example:h1"]
    luns = { 0 = "alpha", 1 = "beta" }
    chap = { user = "h1", mutual_user = "array" }

    [site.osaka]
    iqn = "iqn.2026-11.com.example:osaka"
    portals = ["203.0.113.9:3260"]
    chap = { user = "tokyo" }
    peer_chap = { user = "osaka" }

    [pair.mirror]
    primary = "alpha"
    secondary = "osaka:beta"
    group = "database"
    fence = "data"
    pace = "50MiB/s"

    [[function]]
    backend = "sd1"
    function = "direct-backup"
    can = false
    reason = "its licence has run out"

    [[reach]]
    backend = "sd1"
    device = "vault"
    can = true
    reason = "same fabric"

Only what an administrator decides stands in it; what was probed or learned does not, no state of a
pair, no pair that another site leads, and no secret. An exported document names the extents and the
identity of each volume, so that it makes the same system again.
"""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Any, Final, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from daiko.command_control.function_table import CopyLimits, Known
from daiko.command_control.plan import Function, Mode
from daiko.control import chap
from daiko.control.error import Invalid
from daiko.copy_manager.pace import HOW_TO_WRITE, NoPace, Pace
from daiko.state.extents import Extents
from daiko.state.pair_record import Fence, PairRecord, PairState, Update
from daiko.state.record import (
    BackendKind,
    BackendRecord,
    CredentialRecord,
    FunctionRecord,
    GroupState,
    HostRecord,
    Patience,
    PortalGroupRecord,
    ReachRecord,
    SiteRecord,
    SystemRecord,
    TargetPortGroupRecord,
    VolumeAccess,
    VolumeRecord,
)
from daiko.state.store import Store

_UNITS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ChapPart(_Part):
    """CHAP, without its secrets: those are in no document. Where this stands, the host (or the
    back end, or discovery) goes by CHAP; where it does not, what is set stays as it is."""

    user: str
    mutual_user: str = ""
    secret: Literal["set", "missing"] = "missing"
    """Whether there is one. For the reader: applying a document keeps the secret that there is."""

    @classmethod
    def of(cls, store: Store, owner: str) -> Self | None:
        record = store.get(CredentialRecord, owner)
        if record is None:
            return None
        complete = record.secret and (record.mutual_secret or not record.mutual_user)
        return cls(
            user=record.user,
            mutual_user=record.mutual_user,
            secret="set" if complete else "missing",
        )

    def same_as(self, other: ChapPart | None) -> bool:
        """But for the secret."""
        return other is not None and (self.user, self.mutual_user) == (
            other.user,
            other.mutual_user,
        )


class SystemPart(_Part):
    """What is not given stays as it is."""

    iqn: str | None = None
    initiator_iqn: str | None = None
    mode: Mode | None = None
    ping_interval: float | None = Field(default=None, ge=1, le=3600)
    ping_timeout: float | None = Field(default=None, ge=1, le=3600)
    management_urls: tuple[str, ...] | None = None
    hosts_set_states: bool | None = None
    jobs_kept: int | None = Field(default=None, ge=1, le=100_000)
    discovery_chap: ChapPart | None = None


class PortalGroupPart(_Part):
    """The portals of a portal group."""

    portals: tuple[str, ...] = Field(min_length=1)
    target_port_group: int | None = Field(default=None, ge=1, le=0xFFFF)
    """None: the one of the same number as the tag."""

    def record(self, tag: int) -> PortalGroupRecord:
        return PortalGroupRecord(
            tag=tag, portals=self.portals, target_port_group=self.target_port_group or tag
        )


class TargetPortGroupPart(_Part):
    """What holds in a target port group."""

    state: GroupState = GroupState.ACTIVE_OPTIMIZED
    preferred: bool = False

    def record(self, number: int) -> TargetPortGroupRecord:
        return TargetPortGroupRecord(number=number, state=self.state, preferred=self.preferred)


class BackendPart(_Part):
    """A second controller (iqn, portals) or an INTERNAL device (path)."""

    iqn: str = ""
    portals: tuple[str, ...] = ()
    path: str = ""
    block_size: int = 512
    preallocate: bool = False
    patience: Patience = Patience()
    chap: ChapPart | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.path) == bool(self.iqn):
            raise ValueError("give either `iqn` and `portals`, or `path`")
        if bool(self.iqn) != bool(self.portals):
            raise ValueError("`iqn` and `portals` belong together")
        if self.path and self.chap is not None:
            raise ValueError("nobody logs in to a file: leave `chap` out")
        return self

    def record(self, name: str) -> BackendRecord:
        return BackendRecord(
            name=name,
            type=BackendKind.INTERNAL if self.path else BackendKind.ISCSI,
            iqn=self.iqn,
            portals=self.portals,
            path=self.path,
            block_size=self.block_size,
            preallocate=self.preallocate,
            patience=self.patience,
        )


class VolumePart(_Part):
    """Exactly one of extents, devices, image, or size and from."""

    extents: Extents = Extents()
    devices: tuple[str, ...] = ()
    """Whole devices, end to end."""
    image: str = ""
    """One whole device, as it is."""
    size: str | int = ""
    source: tuple[str, ...] = Field(default=(), alias="from")
    naa: str = Field(default="", pattern=r"^(6[0-9a-f]{31})?$")
    mode: Mode | None = None
    access: dict[int, VolumeAccess] | None = None
    """What holds for it in target port groups; None = as it is, since hosts set that, too."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [bool(self.extents), bool(self.devices), bool(self.image), bool(self.source)]
        if sum(ways) != 1 or bool(self.source) != bool(self.size):
            raise ValueError("give one of `extents`, `devices`, `image`, or `size` and `from`")
        return self


class HostPart(_Part):
    initiators: tuple[str, ...]
    luns: dict[int, str] = {}
    portal_groups: tuple[int, ...] = ()
    remote_copy: tuple[str, ...] = ()
    chap: ChapPart | None = None

    def record(self, name: str) -> HostRecord:
        return HostRecord(name=name, **self.model_dump(exclude={"chap"}))


class SitePart(_Part):
    """Another site's first controller."""

    iqn: str
    portals: tuple[str, ...] = Field(min_length=1)
    initiator: str = ""
    """"" = the name of its target with `.initiator` behind it."""
    without_chap: bool = False
    chap: ChapPart | None = None
    """As whom we log in there."""
    peer_chap: ChapPart | None = None
    """As whom it logs in here."""
    offered: dict[int, str] | None = None
    """LUN -> volume; None = as it is."""

    @model_validator(mode="after")
    def _proved(self) -> Self:
        if not self.without_chap and (self.chap is None or self.peer_chap is None):
            raise ValueError("give `chap` and `peer_chap`, or say `without_chap = true`")
        return self

    def record(self, name: str) -> SiteRecord:
        # iSCSI names in their one form, by which sessions are known (RFC 7143, 4.2.7.1).
        return SiteRecord(
            name=name,
            iqn=self.iqn.lower(),
            portals=self.portals,
            initiator=(self.initiator or f"{self.iqn}.initiator").lower(),
            without_chap=self.without_chap,
            offered=self.offered or {},
        )

    @classmethod
    def of(cls, store: Store, record: SiteRecord) -> Self:
        return cls(
            iqn=record.iqn,
            portals=record.portals,
            initiator=record.initiator,
            without_chap=record.without_chap,
            chap=ChapPart.of(store, chap.site(record.name)),
            peer_chap=ChapPart.of(store, chap.peer(record.name)),
            offered=record.offered or None,
        )


class PairPart(_Part):
    """A pair that this site leads: what it was made with, and its pace. Its state is no part of
    a document, and which of the two volumes is the primary counts only when it is made."""

    primary: str
    secondary: str
    """A volume, or SITE:VOLUME."""
    group: str = ""
    fence: Fence = Fence.NEVER
    granularity: int = 64 << 10
    """Bytes; may be given as `64 KiB`."""
    power_safe: bool = True
    pace: str = "full"
    update: Update = Update.SYNC
    journal: int = 256 << 20
    """Bytes, likewise; counts where the update is `async`."""

    @field_validator("granularity", "journal", mode="before")
    @classmethod
    def _bytes(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            return parse_size(given)
        except Invalid as error:
            raise ValueError(error.message) from error

    @field_validator("pace")
    @classmethod
    def _one_way_to_write(cls, given: str) -> str:
        try:
            return str(Pace.parse(given))
        except NoPace as wrong:
            raise ValueError(f"{wrong}; {HOW_TO_WRITE}") from wrong

    @property
    def site(self) -> str:
        """Of the secondary; "" = here."""
        site, colon, _ = self.secondary.partition(":")
        return site if colon else ""

    def record(self, name: str) -> PairRecord:
        """As it is before it is made."""
        return PairRecord(name=name, site=self.site, **self.model_dump())

    @classmethod
    def of(cls, record: PairRecord) -> Self:
        part = cls(**record.model_dump(include=set(cls.model_fields)))
        is_secondary_ahead = record.state is PairState.SWAPPED or record.mixture == record.primary
        if record.site or not is_secondary_ahead:
            return part
        # A new pair is copied from its primary: that must be the volume that is whole and in use.
        roles = {"primary": part.secondary, "secondary": part.primary}
        return part.model_copy(update=roles)


class FunctionPart(_Part):
    """A cell of the function table, by hand."""

    backend: str
    function: Function
    can: bool
    reason: str
    limits: CopyLimits | None = None

    @classmethod
    def of(cls, record: FunctionRecord) -> Self:
        return cls(
            backend=record.backend,
            function=record.function,
            can=record.cell.can,
            reason=record.cell.reason,
            limits=record.cell.limits,
        )


class ReachPart(_Part):
    """A cell of the reachability column, by hand."""

    backend: str
    device: str
    can: bool
    reason: str

    @classmethod
    def of(cls, record: ReachRecord) -> Self:
        return cls(
            backend=record.backend,
            device=record.device,
            can=record.cell.can,
            reason=record.cell.reason,
        )


class Document(_Part):
    """A whole system."""

    system: SystemPart = SystemPart()
    portal_group: dict[Annotated[int, Field(ge=1, le=0xFFFF)], PortalGroupPart] = {}
    """All portal groups; where there is none, the portals stay as they are."""
    target_port_group: dict[Annotated[int, Field(ge=1, le=0xFFFF)], TargetPortGroupPart] = {}
    backend: dict[str, BackendPart] = {}
    volume: dict[str, VolumePart] = {}
    host: dict[str, HostPart] = {}
    site: dict[str, SitePart] = {}
    pair: dict[str, PairPart] = {}
    function: tuple[FunctionPart, ...] = ()
    reach: tuple[ReachPart, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _portals_of_old(cls, given: Any) -> Any:
        """Documents of old have the portals of the one portal group in `system`."""
        system = given.get("system") if isinstance(given, dict) else None
        if not isinstance(system, dict) or "portals" not in system:
            return given
        if "portal_group" in given:
            raise ValueError("give the portals in `portal_group`, not in `system` as well")
        rest = {name: value for name, value in system.items() if name != "portals"}
        return {**given, "system": rest, "portal_group": {"1": {"portals": system["portals"]}}}

    @classmethod
    def parse(cls, text: str) -> Document:
        """Read a document. Raises Invalid with the place of the first fault."""
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise Invalid(f"the document is not TOML: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"{place or 'the document'}: {first['msg']}", field=place) from error

    @classmethod
    def of(cls, store: Store) -> Document:
        """What the store holds."""
        system = store.get(SystemRecord, "system")
        return cls(
            system=SystemPart(
                **system.model_dump(include=set(SystemPart.model_fields)),
                discovery_chap=ChapPart.of(store, chap.DISCOVERY),
            )
            if system is not None
            else SystemPart(),
            portal_group={
                record.tag: PortalGroupPart(
                    portals=record.portals, target_port_group=record.target_port_group
                )
                for record in store.list(PortalGroupRecord)
            },
            target_port_group={
                record.number: TargetPortGroupPart(state=record.state, preferred=record.preferred)
                for record in store.list(TargetPortGroupRecord)
            },
            backend={
                record.name: BackendPart(
                    **record.model_dump(include=set(BackendPart.model_fields)),
                    chap=ChapPart.of(store, chap.backend(record.name)),
                )
                for record in store.list(BackendRecord)
            },
            volume={record.name: _volume_part(record) for record in store.list(VolumeRecord)},
            host={
                record.name: HostPart(
                    **record.model_dump(exclude={"name"}),
                    chap=ChapPart.of(store, chap.host(record.name)),
                )
                for record in store.list(HostRecord)
            },
            site={record.name: SitePart.of(store, record) for record in store.list(SiteRecord)},
            pair={
                record.name: PairPart.of(record)
                for record in store.list(PairRecord)
                if not record.is_followed
            },
            function=tuple(
                FunctionPart.of(record)
                for record in store.list(FunctionRecord)
                if record.cell.known is Known.DECLARED
            ),
            reach=tuple(
                ReachPart.of(record)
                for record in store.list(ReachRecord)
                if record.cell.known is Known.DECLARED
            ),
        )

    def text(self) -> str:
        """The document as TOML; `parse` is the inverse."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return tomli_w.dumps(_with_text_keys(plain), multiline_strings=False)


def _volume_part(record: VolumeRecord) -> VolumePart:
    access = record.access or None
    if record.image:
        return VolumePart(
            image=record.extents[0].device, naa=record.naa, mode=record.mode, access=access
        )
    return VolumePart(extents=record.extents, naa=record.naa, mode=record.mode, access=access)


def _with_text_keys(value: Any) -> Any:
    """TOML's keys are texts, LUNs are numbers."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(part) for part in value]
    return value


def parse_size(text: str | int) -> int:
    """Bytes of `10 GiB`, `512MiB`, `4096`. Raises Invalid."""
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]i?B?|B)?\s*", str(text))
    if match is None:
        raise Invalid(f"{text!r} is no size: write it as 512MiB, 10GiB or a number of bytes")
    number, unit = match.groups(default="")
    if unit and unit != "B":
        unit = unit[0] + "iB"
    return int(number) * _UNITS[unit]
