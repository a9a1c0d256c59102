"""The controller as a whole."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.command_control.plan import Mode
from daiko.control.status import Status


class Unreachable(BaseModel):
    """A back end that does not answer."""

    backend: str
    reason: str


class SystemView(BaseModel):
    """This controller at a glance."""

    version: str
    iqn: str = Field(description="iSCSI name of the target")
    initiator_iqn: str = Field(description="iSCSI name towards second controllers")
    portals: list[str] = Field(description="HOST:PORT where hosts reach the target")
    mode: Mode
    hosts_set_states: bool = Field(
        description="Hosts may set the states of target port groups (explicit ALUA)"
    )
    ping_interval: float = Field(description="Seconds of silence after which a host is pinged")
    ping_timeout: float = Field(description="Seconds that a host has for its answer to that")
    jobs_kept: int = Field(
        description="Ended jobs that are kept, besides backups that can be restored"
    )
    management_urls: list[str] = Field(
        description="Where administrators reach this controller, as hosts are told"
    )
    backends: int
    unreachable: list[Unreachable] = Field(description="Back ends that do not answer")
    volumes: int
    volume_bytes: int
    hosts: int
    sessions: int = Field(description="Hosts' iSCSI sessions now")
    jobs_active: int = Field(description="Queued or running")
    jobs_failed: int

    @classmethod
    def of(cls, status: Status) -> Self:
        return cls(
            version=status.version,
            iqn=status.record.iqn,
            initiator_iqn=status.record.initiator_iqn,
            portals=list(status.portals),
            mode=status.record.mode,
            ping_interval=status.record.ping_interval,
            hosts_set_states=status.record.hosts_set_states,
            ping_timeout=status.record.ping_timeout,
            jobs_kept=status.record.jobs_kept,
            management_urls=list(status.record.management_urls),
            backends=status.backends,
            unreachable=[Unreachable(backend=b, reason=r) for b, r in status.unreachable],
            volumes=status.volumes,
            volume_bytes=status.volume_bytes,
            hosts=status.hosts,
            sessions=status.sessions,
            jobs_active=status.jobs_active,
            jobs_failed=status.jobs_failed,
        )


class ChangeSystem(BaseModel, extra="forbid"):
    """What can be changed of the controller as a whole; what is not given stays."""

    mode: Mode | None = None
    ping_interval: float | None = Field(default=None, description="1 to 3600 seconds")
    ping_timeout: float | None = Field(default=None, description="1 to 3600 seconds")
    hosts_set_states: bool | None = None
    jobs_kept: int | None = Field(default=None, description="1 to 100,000")


class ManagementUrls(BaseModel):
    """Where administrators reach this controller, as hosts are told (VPD page 85h)."""

    urls: list[str] = Field(
        description="http:// or https://; none: hosts are told nothing",
        examples=[["https://daiko.example.com:3261"]],
    )


class ApplyRequest(BaseModel):
    """A system file to make the store match."""

    toml: str = Field(description="The text of the file, as `daiko export` writes it")
    dry_run: bool = Field(default=False, description="Only say what would change")
    prune: bool = Field(default=True, description="Remove what the file does not name")
    confirmed: bool = Field(
        default=False, description="Data that would be overwritten is meant to be"
    )


class ChangeView(BaseModel):
    """One difference between the store and a system file."""

    action: str = Field(examples=["add"], description="add, change or remove")
    kind: str = Field(examples=["volume"])
    name: str = Field(examples=["alpha"])
    detail: str = Field(default="", description="What changes in it")
    lost: str = Field(
        default="", description="What data it overwrites, which has to be confirmed; empty = none"
    )


class ApplyResult(BaseModel):
    """What was, or with `dry_run` would be, changed."""

    dry_run: bool
    changes: list[ChangeView]
