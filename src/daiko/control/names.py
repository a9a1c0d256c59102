"""The rules for what an administrator writes: names, iSCSI names, portals, devices, ranges.

Each function answers with the thing in its one stored form or raises `Invalid`, naming the field of
the request and showing the right form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from daiko.control.error import Invalid, NotFound
from daiko.mapping.extent import DeviceId
from daiko.state.record import BackendRecord, HostRecord, SiteRecord, VolumeRecord
from daiko.state.store import Store, Transaction

if TYPE_CHECKING:
    from daiko.control.system import System

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_ISCSI_NAME = re.compile(
    r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9][a-z0-9.-]*(:[^\s/]+)?"
    r"|eui\.[0-9a-f]{16}|naa\.([0-9a-f]{16}|[0-9a-f]{32})"
)
_PORTAL = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?"
)

DEFAULT_ISCSI_PORT = 3260


def name(text: str, field: str = "name") -> str:
    """A name given by the administrator. Raises Invalid."""
    if not _NAME.fullmatch(text):
        raise Invalid(
            f"{text!r} cannot be a name",
            "use 1 to 64 lower-case letters, digits, '.', '_' and '-', "
            "beginning and ending with a letter or digit",
            field=field,
        )
    return text


def iscsi_name(text: str, field: str = "iqn") -> str:
    """An iSCSI name in its normal form (RFC 7143, 4.2.7: lower case, at most 223 bytes). Raises
    Invalid."""
    normal = text.strip().lower()
    if not _ISCSI_NAME.fullmatch(normal) or len(normal.encode()) > 223:
        raise Invalid(
            f"{text!r} is not an iSCSI name",
            "write it as in iqn.2003-01.com.example:array1 (or eui.… or naa.…)",
            field=field,
        )
    return normal


def portal(text: str, field: str = "portals") -> str:
    """HOST:PORT with the port filled in (3260 unless said). Raises Invalid."""
    found = _PORTAL.fullmatch(text.strip())
    port = int(found["port"]) if found and found["port"] else DEFAULT_ISCSI_PORT
    if not found or not 0 < port < 65536:
        raise Invalid(
            f"{text!r} is not a portal",
            "write it as HOST:PORT, as in 10.0.0.5:3260 or [fd00::5]:3260",
            field=field,
        )
    return f"{found['host']}:{port}"


def refuse_login(authority: str, field: str) -> None:
    """Raises Invalid, without showing it, where an address says as whom to log in."""
    if "@" in authority:
        raise Invalid(
            "the address carries a user name or password, which others could read there",
            "write HOST:PORT alone, and give the CHAP user and a file with its secret apart",
            field=field,
        )


def socket_address(address: tuple[str, int]) -> str:
    """An address of a connection as HOST:PORT."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def device(text: str, field: str = "device") -> DeviceId:
    """BACKEND/LUN. Raises Invalid."""
    try:
        return DeviceId.parse(text)
    except ValueError as error:
        raise Invalid(str(error), field=field) from None


def backend_of(system: System, text: str) -> BackendRecord:
    """The back end of that name. Raises NotFound."""
    record = system.store.get(BackendRecord, text)
    if record is None:
        raise NotFound(
            f"no back end is called {text!r}", _known("back ends", system.store.list(BackendRecord))
        )
    return record


def volume_of(system: System, text: str) -> VolumeRecord:
    """The volume of that name. Raises NotFound."""
    return volume_in(system.store, text)


def volume_in(found: Store | Transaction, text: str) -> VolumeRecord:
    """The volume of that name, with what a transaction has changed so far. Raises NotFound."""
    record = found.get(VolumeRecord, text)
    if record is None:
        raise NotFound(f"no volume is called {text!r}", _known("volumes", found.list(VolumeRecord)))
    return record


def host_of(system: System, text: str) -> HostRecord:
    """The host of that name. Raises NotFound."""
    record = system.store.get(HostRecord, text)
    if record is None:
        raise NotFound(
            f"no host is called {text!r}", _known("hosts", system.store.list(HostRecord))
        )
    return record


def site_of(system: System, text: str) -> SiteRecord:
    """The site of that name. Raises NotFound."""
    record = system.store.get(SiteRecord, text)
    if record is None:
        raise NotFound(
            f"no site is called {text!r}", _known("sites", system.store.list(SiteRecord))
        )
    return record


def _known(
    noun: str,
    records: Sequence[BackendRecord | VolumeRecord | HostRecord | SiteRecord],
) -> str:
    if not records:
        return f"there are no {noun} yet: add one with `daiko {noun.replace(' ', '')[:-1]} add`"
    shown = ", ".join(record.name for record in records[:8])
    more = f" and {len(records) - 8} more" if len(records) > 8 else ""
    return f"the {noun} are {shown}{more}"


def one_device(system: System, text: str, field: str = "device") -> DeviceId:
    """BACKEND/LUN, or a BACKEND with one LU. Raises Invalid, NotFound."""
    found = devices(system, [text], field)
    if len(found) != 1:
        raise Invalid(
            f"{text!r} has {len(found)} LUs",
            "say which: " + ", ".join(str(device) for device in found[:8])
            if found
            else f"look again with `daiko backend rescan {text}`",
            field=field,
        )
    return found[0]


def devices(system: System, texts: Iterable[str], field: str = "devices") -> list[DeviceId]:
    """The devices of BACKEND/LUN or BACKEND (all of its LUs), in this order. Raises Invalid,
    NotFound."""
    found: dict[DeviceId, None] = {}
    for text in texts:
        if "/" in text:
            wanted = device(text, field)
            backend = backend_of(system, wanted.backend)
            if all(facts.lun != wanted.lun for facts in backend.devices):
                raise NotFound(
                    f"{wanted.backend!r} has no LUN {wanted.lun}",
                    f"see `daiko backend show {wanted.backend}`, or look again with "
                    f"`daiko backend rescan {wanted.backend}`",
                    field=field,
                )
            found[wanted] = None
        else:
            backend = backend_of(system, text)
            found.update((DeviceId(backend.name, facts.lun), None) for facts in backend.devices)
    return list(found)
