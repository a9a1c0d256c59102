"""Make the system match a document, and write the document of a system.

`apply` compares first: what it would do is a list of `Action`s, in the order in which they would
be done, and with `dry_run` that is all. Applied twice, the second time finds nothing to do.

What takes long or can fail at somebody else's hands, attaching back ends, comes first; pairs that
go are taken away, then everything else happens in one transaction; detaching comes last, and after
it new pairs are made. A volume's data is never moved or given another identity: a document that
asks for that is refused. What a new pair overwrites has to be confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from daiko.control import (
    backends,
    hosts,
    names,
    pairs_in_documents,
    portal_groups,
    sites,
    volumes,
)
from daiko.control.action import Action as Action
from daiko.control.action import Verb as Verb
from daiko.control.action import names_of as _names
from daiko.control.applying import Applying
from daiko.control.document import (
    BackendPart,
    ChapPart,
    Document,
    SitePart,
    TargetPortGroupPart,
    VolumePart,
    parse_size,
)
from daiko.control.error import Conflict, Invalid
from daiko.control.listening import wanted_portals
from daiko.control.pair_checks import not_confirmed
from daiko.control.system import System
from daiko.iscsi.chap import name_fault
from daiko.mapping.mapping_table import begins_with
from daiko.state.pair_record import PairRecord
from daiko.state.record import (
    Patience,
    PortalGroupRecord,
    SiteRecord,
    TargetPortGroupRecord,
    VolumeRecord,
)


async def apply(
    system: System,
    text: str,
    *,
    dry_run: bool = False,
    prune: bool = True,
    confirmed: bool = False,
) -> tuple[Action, ...]:
    """Make the system match the TOML document, and return what was, or with `dry_run` would be,
    done. Without `prune`, what the document does not name is left alone.

    Raises Invalid, NotFound, Conflict (also where data would be lost and that is not `confirmed`)
    or Unavailable; what was attached before a failure stays attached, and applying again goes on
    from there. A new pair that cannot be made leaves the rest of the document done.
    """
    return await apply_document(
        system, Document.parse(text), dry_run=dry_run, prune=prune, confirmed=confirmed
    )


def export(system: System) -> str:
    """The document of the system, in TOML."""
    return Document.of(system.store).text()


async def apply_document(
    system: System,
    document: Document,
    *,
    dry_run: bool = False,
    prune: bool = True,
    confirmed: bool = False,
) -> tuple[Action, ...]:
    """`apply` for a document that was read already."""
    _check(document)
    async with system.changing:
        now = Document.of(system.store)
        actions = _all_differences(system, now, document, prune=prune)
        if dry_run or not actions:
            return actions
        lost = [action.lost for action in actions if action.lost]
        if lost and not confirmed:
            raise not_confirmed("; ".join(lost))
        for name in _names(actions, "backend", Verb.ADD):
            await system.attach_backend(document.backend[name].record(name))
        await _open_portals(system, document, actions)
        try:
            if any(action.kind == "pair" for action in actions):
                await _rehearse(system, document, actions)
                await pairs_in_documents.remove(system, actions)
            async with system.store.transaction() as change:
                Applying(system, document, change, actions).run()
        finally:
            await system.listening.settle()
        if _names(actions, "system", Verb.CHANGE):
            await system.change_record(
                document.system.model_dump(exclude_none=True, exclude={"discovery_chap"})
            )
        for name in _names(actions, "backend", Verb.CHANGE):
            await system.change_patience(name, document.backend[name].patience)
        for name in _names(actions, "backend", Verb.REMOVE):
            await system.detach_backend(name)
        await pairs_in_documents.change(system, document, actions)
    # Not while changes here wait: another system may ask for a pair with this one just now.
    await pairs_in_documents.add(system, document, actions)
    return actions


def _all_differences(
    system: System, now: Document, wanted: Document, *, prune: bool
) -> tuple[Action, ...]:
    store = system.store
    sizes = {
        record.name: record.blocks * record.block_size
        for record in store.list(VolumeRecord)
        if record.name in wanted.volume
    }
    return (
        *(pairs_in_documents.removals(now, wanted) if prune else ()),
        *differences(now, wanted, prune=prune, sizes=sizes),
        *pairs_in_documents.differences(store, now, wanted, prune=prune),
    )


class _Rehearsed(Exception):
    """It can be done; nothing of it was."""


async def _rehearse(system: System, document: Document, actions: tuple[Action, ...]) -> None:
    """Find out whether the transaction and the new pairs go, before a pair is taken away for them.
    Raises NotFound, Invalid, Conflict."""
    with suppress(_Rehearsed):
        async with system.store.transaction() as change:
            for name in _names(actions, "pair", Verb.REMOVE):
                change.delete(PairRecord, name)
            Applying(system, document, change, actions).run()
            pairs_in_documents.check_new(system, change, document, actions)
            raise _Rehearsed


async def _open_portals(system: System, document: Document, actions: tuple[Action, ...]) -> None:
    """Listen at the portals that are new. Raises Unavailable, Conflict."""
    if not any(action.kind in ("portal_group", "target_port_group") for action in actions):
        return
    groups = {record.tag: record for record in system.store.list(PortalGroupRecord)}
    groups |= {tag: part.record(tag) for tag, part in document.portal_group.items()}
    for tag in _names(actions, "portal_group", Verb.REMOVE):
        del groups[int(tag)]
    states = {record.number: record for record in system.store.list(TargetPortGroupRecord)}
    states |= {n: part.record(n) for n, part in document.target_port_group.items()}
    for number in _names(actions, "target_port_group", Verb.REMOVE):
        del states[int(number)]
    portal_groups.check(groups.values(), ())
    await system.listening.prepare(wanted_portals(groups.values(), states.values()))


def _check(document: Document) -> None:
    """Hold the document to the rules that hold for every other way to ask. Raises Invalid."""
    for name in (*document.backend, *document.volume, *document.host, *document.site):
        names.name(name)
    for name, backend in document.backend.items():
        backends.check(backend.record(name))
    for name, host in document.host.items():
        hosts.check(host.record(name))
        _check_chap(host.chap, f"host.{name}.chap")
    pairs_in_documents.check(document)
    for name, site in document.site.items():
        sites.check(site.record(name))
        _check_chap(site.chap, f"site.{name}.chap")
        _check_chap(site.peer_chap, f"site.{name}.peer_chap")
    _check_chap(document.system.discovery_chap, "system.discovery_chap")
    for tag, group in document.portal_group.items():
        for portal in group.portals:
            names.portal(portal, f"portal_group.{tag}.portals")
    for name, volume in document.volume.items():
        volumes.check_access(volume.access or {}, f"volume.{name}.access")


def _check_chap(part: ChapPart | None, field: str) -> None:
    if part is None:
        return
    fault = name_fault(part.user) or (part.mutual_user and name_fault(part.mutual_user))
    if fault:
        raise Invalid(fault, field=field)


def differences(
    now: Document, wanted: Document, *, prune: bool, sizes: Mapping[str, int] | None = None
) -> Iterator[Action]:
    """What makes `now` into `wanted`; `sizes` are the bytes of the volumes that there are. Raises
    Conflict for what cannot be made."""
    changed = {
        field: value
        for field, value in wanted.system.model_dump(
            mode="json", exclude_none=True, exclude={"discovery_chap"}
        ).items()
        if now.system.model_dump(mode="json")[field] != value
    }
    if changed:
        yield Action(Verb.CHANGE, "system", "system", _said(changed))
    yield from _chap_of(now.system.discovery_chap, wanted.system.discovery_chap, _DISCOVERY, "")
    yield from _portal_groups(now, wanted, prune=prune)
    yield from _backends(now, wanted)
    yield from _volumes(now, wanted, sizes or {})
    for name, host in wanted.host.items():
        there = now.host.get(name)
        yield from _chap_of(there.chap if there else None, host.chap, _HOST, name)
        if there is None:
            yield Action(Verb.ADD, "host", name, f"sees {_luns(host.luns)}")
        elif there.model_copy(update={"chap": host.chap}) != host:
            yield Action(
                Verb.CHANGE,
                "host",
                name,
                f"sees {_luns(host.luns)} instead of {_luns(now.host[name].luns)}"
                if host.luns != now.host[name].luns
                else f"initiators {', '.join(host.initiators)}; "
                f"portal groups {', '.join(map(str, host.portal_groups)) or 'all'}; "
                f"may copy to {', '.join(host.remote_copy) or 'no other machine'}",
            )
    yield from _sites(now, wanted)
    yield from _cells(now, wanted, prune=prune)
    if prune:
        for kind in ("host", "site", "volume", "backend"):
            for name in getattr(now, kind):
                if name not in getattr(wanted, kind):
                    yield Action(Verb.REMOVE, kind, name, "it is not in the document")


def _portal_groups(now: Document, wanted: Document, *, prune: bool) -> Iterator[Action]:
    for tag, group in wanted.portal_group.items():
        there = now.portal_group.get(tag)
        record = group.record(tag)
        if there is None or there.record(tag) != record:
            verb = Verb.ADD if there is None else Verb.CHANGE
            where = f"{', '.join(record.portals)} in target port group {record.target_port_group}"
            yield Action(verb, "portal_group", str(tag), where)
    for number, said in wanted.target_port_group.items():
        if now.target_port_group.get(number, TargetPortGroupPart()) != said:
            verb = Verb.CHANGE if number in now.target_port_group else Verb.ADD
            preferred = ", preferred" if said.preferred else ""
            yield Action(verb, "target_port_group", str(number), f"{said.state}{preferred}")
    if prune and wanted.portal_group:
        for tag in now.portal_group:
            if tag not in wanted.portal_group:
                yield Action(Verb.REMOVE, "portal_group", str(tag), "it is not in the document")
        for number in now.target_port_group:
            if number not in wanted.target_port_group:
                yield Action(Verb.REMOVE, "target_port_group", str(number), "active-optimized")


def _backends(now: Document, wanted: Document) -> Iterator[Action]:
    for name, backend in wanted.backend.items():
        there = now.backend.get(name)
        known = None if there is None else there.chap
        if backend.chap is not None and not backend.chap.same_as(known):
            raise Conflict(
                f"back end {name} needs the secret of the CHAP user {backend.chap.user}, and "
                "secrets are in no document",
                f"give it first: `daiko backend {'add' if there is None else 'set-chap'} {name}`, "
                "then apply again",
                field=f"backend.{name}.chap",
            )
        if there is None:
            yield Action(Verb.ADD, "backend", name, _where(backend))
        elif _but_for_login(there) != _but_for_login(backend):
            raise Conflict(
                f"back end {name} is {_where(now.backend[name])}, not {_where(backend)}",
                "detach it and attach it anew, or give the new one another name",
                field=f"backend.{name}",
            )
        elif there.patience != backend.patience:
            said = _said(backend.patience.model_dump())
            yield Action(Verb.CHANGE, "backend", name, f"seconds that it may take: {said}")


def _but_for_login(part: BackendPart) -> BackendPart:
    """What cannot be changed while it is attached."""
    return part.model_copy(update={"chap": None, "patience": Patience()})


def _sites(now: Document, wanted: Document) -> Iterator[Action]:
    for name, site in wanted.site.items():
        there = now.site.get(name)
        yield from _chap_of(there.chap if there else None, site.chap, _SITE, name)
        yield from _chap_of(there.peer_chap if there else None, site.peer_chap, _PEER, name)
        if there is None:
            yield Action(Verb.ADD, "site", name, f"{site.iqn} at {', '.join(site.portals)}")
        elif _without_logins(there, site) != _without_logins(site, site):
            record = site.record(name)
            if there.iqn != record.iqn:
                raise Conflict(
                    f"site {name} is {there.iqn}, not {site.iqn}",
                    "forget it and add it anew, or give the new one another name",
                    field=f"site.{name}.iqn",
                )
            detail = f"at {', '.join(site.portals)}, logs in as {record.initiator}"
            if site.without_chap:
                detail += ", by its name alone where no CHAP user is set"
            if site.offered is not None:
                detail += f"; is offered {_luns(site.offered)}"
            yield Action(Verb.CHANGE, "site", name, detail)


def _without_logins(part: SitePart, wanted: SitePart) -> SiteRecord:
    """What is compared: all but CHAP, and what the document does not say."""
    said = part if wanted.offered is not None else part.model_copy(update={"offered": None})
    return said.record("any")


_SITE = "site"
_PEER = "peer"
_HOST = "host"
_DISCOVERY = "discovery"


def _chap_of(
    now: ChapPart | None, wanted: ChapPart | None, kind: str, name: str
) -> Iterator[Action]:
    """What a document does not say of CHAP stays: to take it away is too much to do silently."""
    if wanted is None or wanted.same_as(now):
        return
    whose = {
        _HOST: f"host set-chap {name}",
        _SITE: f"site set {name} --chap-user {wanted.user}",
        _PEER: f"site set {name} --peer-user {wanted.user}",
    }.get(kind, "discovery set-chap")
    detail = f"{'we log in' if kind == _SITE else 'proves itself'} as {wanted.user}"
    if now is None:
        detail += f"; nobody gets in until `daiko {whose}` has given the secret"
    verb = Verb.ADD if now is None else Verb.CHANGE
    yield Action(verb, "chap", f"{kind}:{name}", detail)


def _volumes(now: Document, wanted: Document, sizes: Mapping[str, int]) -> Iterator[Action]:
    for name, volume in wanted.volume.items():
        there = now.volume.get(name)
        if there is None:
            yield Action(Verb.ADD, "volume", name, _lies_on(volume))
            continue
        if volume.naa and volume.naa != there.naa:
            raise Conflict(
                f"volume {name} has the identity {there.naa}, which it keeps for ever",
                field=f"volume.{name}.naa",
            )
        size = parse_size(volume.size) if volume.source else 0
        if size > sizes.get(name, size):
            yield Action(Verb.CHANGE, "volume", name, f"grows to {volume.size}")
        elif size and -(-size // 4096) * 4096 < sizes.get(name, size):
            raise Conflict(
                f"volume {name} has {sizes[name]} bytes, the document says {volume.size}: "
                "a volume does not shrink",
                "write the size that it has",
                field=f"volume.{name}.size",
            )
        if _grows(volume, there):
            yield Action(Verb.CHANGE, "volume", name, f"grows: {_lies_on(volume)}")
        elif volume.extents and there.extents and volume.extents != there.extents:
            raise Conflict(
                f"volume {name} lies elsewhere; applying a document moves no data",
                field=f"volume.{name}.extents",
            )
        if volume.devices and volume.devices != tuple(e.device for e in there.extents):
            raise Conflict(
                f"volume {name} does not lie on {', '.join(volume.devices)}, but on "
                f"{', '.join(dict.fromkeys(e.device for e in there.extents)) or there.image}",
                "give what it lies on, or another LUN or store",
                field=f"volume.{name}.devices",
            )
        if volume.image and volume.image != there.image:
            raise Conflict(
                f"volume {name} is not the image of {volume.image}", field=f"volume.{name}.image"
            )
        if volume.mode != there.mode:
            yield Action(
                Verb.CHANGE, "volume", name, f"mode {volume.mode or 'as the system has it'}"
            )
        if volume.access is not None and volume.access != (there.access or {}):
            yield Action(Verb.CHANGE, "volume", name, "its states in target port groups")


def _grows(wanted: VolumePart, there: VolumePart) -> bool:
    """Whether the extents of a document are those that there are, and more behind them."""
    return (
        bool(wanted.extents and there.extents)
        and wanted.extents != there.extents
        and begins_with(wanted.extents.table, there.extents.table)
    )


def _cells(now: Document, wanted: Document, *, prune: bool) -> Iterator[Action]:
    functions = {(cell.backend, cell.function): cell for cell in now.function}
    for cell in wanted.function:
        there = functions.pop((cell.backend, cell.function), None)
        if there != cell:
            verb = Verb.ADD if there is None else Verb.CHANGE
            yield Action(verb, "function", f"{cell.backend}:{cell.function}", _can(cell.can))
    reaches = {(cell.backend, cell.device): cell for cell in now.reach}
    for reach in wanted.reach:
        known = reaches.pop((reach.backend, reach.device), None)
        if known != reach:
            verb = Verb.ADD if known is None else Verb.CHANGE
            yield Action(verb, "reach", f"{reach.backend}:{reach.device}", _can(reach.can))
    if prune:
        for backend, function in functions:
            yield Action(
                Verb.REMOVE, "function", f"{backend}:{function}", "what was found holds again"
            )
        for backend, device in reaches:
            yield Action(Verb.REMOVE, "reach", f"{backend}:{device}", "what was found holds again")


def _where(backend: BackendPart) -> str:
    if backend.path:
        room = ", preallocated" if backend.preallocate else ""
        return f"{backend.path} with blocks of {backend.block_size} bytes{room}"
    return f"{backend.iqn} at {', '.join(backend.portals)}"


def _lies_on(volume: VolumePart) -> str:
    if volume.extents:
        devices = ", ".join(map(str, volume.extents.devices))
        return f"{len(volume.extents)} extents on {devices}"
    if volume.source:
        return f"{volume.size} from {', '.join(volume.source)}"
    return f"image of {volume.image}" if volume.image else f"all of {', '.join(volume.devices)}"


def _luns(luns: dict[int, str]) -> str:
    return ", ".join(f"{volume} as LUN {lun}" for lun, volume in sorted(luns.items())) or "nothing"


def _can(can: bool) -> str:
    return "can, by hand" if can else "cannot, by hand"


def _said(values: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {', '.join(value) if isinstance(value, list) else value}"
        for name, value in values.items()
    )
