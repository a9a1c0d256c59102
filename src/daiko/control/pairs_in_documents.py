"""Pairs in the document of a system.

A document says of a pair what it is made with. What has become of it since is not the document's:
its state, and which of its two volumes hosts use (`swap` says that). A pair that another site leads
is in the document of that site.

To make a pair overwrites its secondary: that is said as what is lost. Of a pair that there is only
the pace can be changed; anything else would be another pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daiko.control import names, pairs, volumes
from daiko.control.action import Action, Verb, names_of
from daiko.control.document import Document, PairPart, VolumePart, parse_size
from daiko.control.error import Conflict, ControlError, Invalid, NotFound
from daiko.control.pair_checks import check_update
from daiko.control.sites import FIRST_LOOK
from daiko.mapping.extent import DeviceId
from daiko.pair.state import Verb as PairVerb
from daiko.state.pair_record import PairRecord
from daiko.state.record import BackendRecord, DeviceFacts, SiteRecord, VolumeRecord
from daiko.state.store import Store, Transaction

if TYPE_CHECKING:
    from daiko.control.system import System

KIND = "pair"


# --- what differs -------------------------------------------------------------------------------


def check(document: Document) -> None:
    """Hold the pairs of a document to the rules that hold for every other way to ask. Raises
    Invalid."""
    for name, part in document.pair.items():
        with _named(name):
            names.name(name)
            if part.group:
                names.name(part.group, "group")
            pairs.check_granularity(part.granularity)
            if part.primary == part.secondary:
                raise Invalid("a volume is no pair with itself", field="secondary")


def removals(now: Document, wanted: Document) -> Iterator[Action]:
    """The pairs that are not in the document."""
    for name in now.pair:
        if name not in wanted.pair:
            why = "it is not in the document; both volumes keep what is on them"
            yield Action(Verb.REMOVE, KIND, name, why)


def differences(store: Store, now: Document, wanted: Document, *, prune: bool) -> Iterator[Action]:
    """What is to be done besides. Raises NotFound, Conflict for what cannot be."""
    for name, part in wanted.pair.items():
        _check_places(store, wanted, name, part, prune=prune)
        there = now.pair.get(name)
        if there is None:
            _refuse_followed(store, name)
            yield Action(
                Verb.ADD,
                KIND,
                name,
                f"{part.secondary} is kept like {part.primary}",
                lost=f"{_extent_of_loss(store, wanted, part)} of {part.secondary} would be "
                "overwritten",
            )
            continue
        _refuse_another(name, there, part)
        if part.pace != there.pace:
            yield Action(Verb.CHANGE, KIND, name, f"copies at pace {part.pace}")


def _check_places(
    store: Store, wanted: Document, name: str, part: PairPart, *, prune: bool
) -> None:
    """Raises NotFound where a volume or the site will not be there."""
    site = part.site
    places = {"primary": part.primary}
    if not site:
        places["secondary"] = part.secondary
    for field, volume in places.items():
        is_kept = not prune and store.get(VolumeRecord, volume) is not None
        if volume not in wanted.volume and not is_kept:
            raise NotFound(
                f"pair {name} names the volume {volume}, which is not in the document",
                "add the volume to the document, or leave the pair out",
                field=f"pair.{name}.{field}",
            )
    if site and site not in wanted.site and (prune or store.get(SiteRecord, site) is None):
        raise NotFound(
            f"pair {name} names the site {site}, which is not in the document",
            "add the site to the document, or leave the pair out",
            field=f"pair.{name}.secondary",
        )


def _refuse_followed(store: Store, name: str) -> None:
    record = store.get(PairRecord, name)
    if record is not None and record.is_followed:
        raise Conflict(
            f"site {record.site} leads pair {name}",
            "leave it out: it belongs in the document of that site",
            field=f"pair.{name}",
        )


def _refuse_another(name: str, there: PairPart, wanted: PairPart) -> None:
    """Raises Conflict where a pair would have to be made anew."""
    anew = f"`daiko pair rm {name}` first, and all of it is copied anew; or write what it has"
    if {there.primary, there.secondary} != {wanted.primary, wanted.secondary}:
        raise Conflict(
            f"pair {name} is of {there.primary} and {there.secondary}, the document says "
            f"{wanted.primary} and {wanted.secondary}",
            anew,
            field=f"pair.{name}",
        )
    kept = there.model_dump(mode="json", exclude={"primary", "secondary", "pace"})
    for field, value in kept.items():
        said = wanted.model_dump(mode="json")[field]
        if said != value:
            raise Conflict(
                f"pair {name} has {field} {_word(value)}, the document says {_word(said)}: that "
                "cannot be changed",
                anew,
                field=f"pair.{name}.{field}",
            )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value or "none")


# --- how much is lost ---------------------------------------------------------------------------


def _extent_of_loss(store: Store, wanted: Document, part: PairPart) -> str:
    """All of the secondary, in numbers where they are known: both volumes have the same size."""
    here = (part.primary,) if part.site else (part.secondary, part.primary)
    for volume in here:
        record, said = store.get(VolumeRecord, volume), wanted.volume.get(volume)
        if said is not None and said.source:
            there = record.blocks * record.block_size if record else 0
            return f"all {max(parse_size(said.size), there):,} bytes"
        if record is not None:
            return f"all {record.blocks * record.block_size:,} bytes"
        if said is not None and (size := _size_of_new(store, wanted, said)):
            return f"all {size:,} bytes"
    # Its back ends are attached in the same application.
    blocks = [wanted.volume[v].extents.table.blocks for v in here if wanted.volume[v].extents]
    return f"all {blocks[0]:,} blocks" if blocks else "all"


def _size_of_new(store: Store, wanted: Document, said: VolumePart) -> int:
    """Bytes of a volume that is not there yet; 0: not known."""
    if said.extents:
        device = said.extents[0].device
        return said.extents.table.blocks * _block_size(store, wanted, device)
    facts = [_facts(store, text) for text in ([said.image] if said.image else said.devices)]
    known = [each for each in facts if each is not None]
    return sum(f.blocks * f.block_size for f in known) if len(known) == len(facts) else 0


def _block_size(store: Store, wanted: Document, device: str) -> int:
    facts = _facts(store, device)
    if facts is not None:
        return facts.block_size
    new = wanted.backend.get(_device(device).backend)
    return new.block_size if new is not None and new.path else 0


def _facts(store: Store, device: str) -> DeviceFacts | None:
    place = _device(device)
    backend = store.get(BackendRecord, place.backend)
    devices = backend.devices if backend is not None else ()
    return next((each for each in devices if each.lun == place.lun), None)


def _device(text: str) -> DeviceId:
    return volumes.parse_device(text)


# --- what is done -------------------------------------------------------------------------------


def check_new(
    system: System, change: Transaction, document: Document, actions: tuple[Action, ...]
) -> None:
    """Whether the new pairs can be made of what the transaction leaves there. Raises NotFound,
    Invalid, Conflict."""
    for name in names_of(actions, KIND, Verb.ADD):
        part = document.pair[name]
        record = part.record(name)
        with _named(name):
            check_update(system, part.update, part.journal, fence=part.fence)
            pairs.check_new(change, record)
        change.put(record)


async def remove(system: System, actions: tuple[Action, ...]) -> None:
    """Forget the pairs that are not in the document; the volumes keep what is on them."""
    for name in names_of(actions, KIND, Verb.REMOVE):
        await system.pairs.verb(name, PairVerb.REMOVE)


async def change(system: System, document: Document, actions: tuple[Action, ...]) -> None:
    """Give pairs the pace that the document says."""
    for name in names_of(actions, KIND, Verb.CHANGE):
        await system.pairs.set_pace(name, document.pair[name].pace)


async def add(system: System, document: Document, actions: tuple[Action, ...]) -> None:
    """Make the new pairs; everything else is done, and that their secondaries are overwritten is
    confirmed. Raises NotFound, Invalid, Conflict, Unavailable, which name the pair."""
    for name in names_of(actions, KIND, Verb.ADD):
        part = document.pair[name]
        with _named(name, after="then apply again: all but the pairs is done"):
            if part.site:
                # It may have been named just now.
                await system.sites.settle(part.site, FIRST_LOOK)
            await pairs.create(system, name, confirmed=True, **dict(part))


@contextmanager
def _named(name: str, after: str = "") -> Iterator[None]:
    """Let what is wrong with a pair name it."""
    try:
        yield
    except ControlError as error:
        raise type(error)(
            f"pair {name}: {error.message}",
            "; ".join(filter(None, (error.next_step, after))),
            field=f"pair.{name}.{error.field}".rstrip("."),
        ) from error
