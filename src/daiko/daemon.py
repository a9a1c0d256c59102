"""Composition root: the one place that builds and wires everything; start and orderly stop.

`serve` runs one controller until it is told to stop. The order of a start: the store is opened
and locked, the system record brought up to date with the options, the system started (back ends,
volumes, jobs), the sources of the command line applied to it as a document, the API opened, and
the portals last, so that a host that gets through finds everything there. The stop is the reverse.

What is printed on standard output is for people and scripts: a line for each LUN, the address of
the API, and `ready`. The log goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO, cast

import structlog
import uvicorn
import uvloop

from daiko.api.address import ApiAddress, default_address, is_foreign
from daiko.api.app import create_app
from daiko.command_control.plan import Mode
from daiko.control import names, portal_groups
from daiko.control.apply import apply_document
from daiko.control.document import BackendPart, Document, HostPart, VolumePart
from daiko.control.error import Conflict, Invalid, Unavailable
from daiko.control.listening import reason_of
from daiko.control.system import System
from daiko.device.memory import keep_freed_memory
from daiko.log_writer import LogWriter
from daiko.state.record import BackendRecord, HostRecord, PortalGroupRecord, SystemRecord
from daiko.state.sqlite import SqliteStore, default_folder
from daiko.state.store import Store

log = structlog.get_logger(__name__)

READY: Final = "ready"
DEFAULT_PORTAL: Final = "127.0.0.1:3260"
ANY_HOST: Final = "any"
"""Name of the host record that gives the LUNs of the command line to every initiator."""

FILES: Final = 16384
"""Descriptors: 1,024 sessions, 256 connections without one, back ends, files, and room."""

API_STOP_SECONDS: Final = 2
"""How long a stop waits for requests to the API that are under way, such as followed jobs."""

_ISCSI_NAME: Final = re.compile(
    r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[^\s]*)?"
    r"|eui\.[0-9a-f]{16}|naa\.([0-9a-f]{16}|[0-9a-f]{32})"
)
"""RFC 7143, 4.2.7, in the normalised form (lower case)."""


@dataclass(frozen=True)
class Options:
    """What the command line of `daiko serve` says. None and "" = not said."""

    luns: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """LUN -> sources, end to end; a source is a file, a block device or an iscsi:// URL."""
    portals: Sequence[str] = ()
    iqn: str = ""
    initiator_iqn: str = ""
    mode: Mode | None = None
    store: Path | None = None
    block_size: int = 512
    size: int = 0
    """Bytes of a file that is not there yet and is to be made; 0 = it must be there."""
    preallocate: bool = False
    """Files get all of their room."""
    api: str = ""
    token: str = ""
    log_level: str = "info"
    log_json: bool = False


def serve(options: Options) -> None:
    """Run a controller until SIGINT or SIGTERM. Raises ControlError and StoreError when it
    cannot be started, and `Interrupted` when it was told to stop before it was ready."""
    with closing(LogWriter(sys.stderr.fileno())) as log_file:
        _configure_log(options, log_file)
        keep_freed_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(options))


def _raise_file_limit() -> None:
    """Every session, back end and file takes a descriptor; the default of many systems is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < FILES:
        log.warning("few files may be open", limit=wanted, wanted=FILES, next_step="ulimit -Hn")


class Interrupted(Exception):
    """Told to stop before it was ready; everything begun has been undone."""


async def _serve(options: Options) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(_start(options))

    def stop() -> None:
        stopped.set()
        starting.cancel()  # does nothing once it is ready

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        stack = await starting
    except asyncio.CancelledError:
        raise Interrupted from None
    async with stack:
        # Nothing made so far is ever garbage: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await stopped.wait()
        log.info("stopping")


async def _start(options: Options) -> AsyncExitStack:
    """Start everything, and say so. Returns what stops it again."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_store_folder(options))
        store = SqliteStore.open(folder)
        store.is_lasting = not _is_for_once(options)
        stack.push_async_callback(store.close)
        await _initialise(store, options)
        is_temporary = options.store is None and bool(options.luns)
        system = await System.start(store, kept_in=None if is_temporary else folder)
        stack.push_async_callback(system.stop)
        if options.luns:
            document = document_of(store, options)
            _make_files(options)
            await apply_document(system, document, prune=False)
        api = stack.enter_context(_api_address(options, folder))
        await stack.enter_async_context(_serving_api(system, api, options.token))
        await system.listen()
        for line in [*urls(system), f"API at {api.address}", READY]:
            _say(line)
        return stack.pop_all()


def _say(line: str) -> None:
    """Print a line in one piece. `print` writes the end of the line by itself where the output is
    not buffered, and on a terminal a line of the log may come in between."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def _store_folder(options: Options) -> Iterator[Path]:
    """The folder given, a temporary one where only sources are, or the default one."""
    if options.store is not None:
        yield options.store
    elif _is_for_once(options):
        folder = Path(tempfile.mkdtemp(prefix="daiko-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
    else:
        yield default_folder()


def _is_for_once(options: Options) -> bool:
    return options.store is None and bool(options.luns)


async def _initialise(store: Store, options: Options) -> None:
    """Make the system record, or bring it up to date with what the options say."""
    if options.iqn:
        check_iscsi_name(options.iqn)
    if options.initiator_iqn:
        check_iscsi_name(options.initiator_iqn)
    named = _named_portals(options.portals)
    known = store.get(SystemRecord, "system")
    iqn = options.iqn or (known.iqn if known is not None else _new_iqn())
    record = SystemRecord(
        iqn=iqn,
        initiator_iqn=options.initiator_iqn
        or (known.initiator_iqn if known is not None else f"{iqn}.initiator"),
        mode=options.mode or (known.mode if known is not None else _mode_for(options)),
    )
    if known is not None:
        said = record.model_dump(include={"iqn", "initiator_iqn", "mode"})
        record = known.model_copy(update=said)
    async with store.transaction() as change:
        change.put(record)
        if not named and not change.list(PortalGroupRecord):
            named = {1: [DEFAULT_PORTAL]}
        for tag, portals in named.items():
            portal_groups.put_portals(change, tag, portals)


def _named_portals(options: Sequence[str]) -> dict[int, list[str]]:
    """The portals of `--portal HOST:PORT[,TAG]` by the tag of their portal group (1 where none is
    said). Raises Invalid."""
    found: dict[int, list[str]] = {}
    for text in options:
        portal, comma, tag = text.partition(",")
        check_portal(portal)
        if comma and not (tag.isascii() and tag.isdigit() and 0 < int(tag) < 0x10000):
            raise Invalid(
                f"{text!r} names no portal group",
                "write it as HOST:PORT or HOST:PORT,TAG with a tag from 1 to 65535",
                field="portal",
            )
        found.setdefault(int(tag) if comma else 1, []).append(portal)
    return found


def _new_iqn() -> str:
    return f"iqn.2026-11.local.daiko:{secrets.token_hex(6)}"


def _mode_for(options: Options) -> Mode:
    """Nothing but own disks: an ordinary controller. Else a first controller [0034]."""
    sources = [source for sources in options.luns.values() for source in sources]
    own_only = bool(sources) and not any(_is_url(source) for source in sources)
    return Mode.LOCAL if own_only else Mode.DELEGATE


def check_iscsi_name(name: str) -> None:
    """Raises Invalid for what is no iSCSI name in normal form."""
    if not _ISCSI_NAME.fullmatch(name) or len(name.encode()) > 223:
        raise Invalid(
            f"{name!r} is not an iSCSI name",
            "write it in lower case like iqn.2026-11.com.example:disks",
            field="iqn",
        )


def check_portal(portal: str) -> None:
    """Raises Invalid for what is not HOST:PORT."""
    host, colon, port = portal.rpartition(":")
    ipv6 = host.startswith("[") and host.endswith("]")
    is_port = port.isascii() and port.isdigit() and int(port) < 65536
    if not host or not colon or not is_port or (":" in host and not ipv6):
        raise Invalid(
            f"{portal!r} is not a portal",
            "write it as HOST:PORT, IPv6 as [ADDRESS]:PORT",
            field="portal",
        )


# Sources


def _is_url(source: str) -> bool:
    return "://" in source


@dataclass(frozen=True)
class Source:
    """Where a part of a LUN lies: a back end, and the number of the LU there."""

    backend: BackendPart
    lun: int


def parse_source(source: str, block_size: int, *, preallocate: bool = False) -> Source:
    """Read a source of the command line. Raises Invalid."""
    if not _is_url(source):
        if block_size not in (512, 4096):
            raise Invalid(
                f"a block of {block_size} bytes is not possible",
                "give --block-size 512 or 4096",
                field="block-size",
            )
        path = Path(source).absolute()
        part = BackendPart(path=str(path), block_size=block_size, preallocate=preallocate)
        return Source(part, 0)
    scheme, _, address = source.partition("://")
    authority, _, way = address.partition("/")
    names.refuse_login(authority, "source")
    iqn, _, lun = way.rstrip("/").partition("/")
    if scheme.lower() != "iscsi" or not authority or not (lun.isascii() and lun.isdigit()):
        raise Invalid(
            f"{source!r} names no LU", "write it as iscsi://HOST:PORT/IQN/LUN", field="source"
        )
    check_iscsi_name(iqn)
    portal = names.portal(authority, "source")
    return Source(BackendPart(iqn=iqn, portals=(portal,)), int(lun))


def _make_files(options: Options) -> None:
    """Make the files that are not there yet. Raises Invalid, Unavailable."""
    for source in (source for sources in options.luns.values() for source in sources):
        if _is_url(source) or os.path.exists(source):
            continue
        if not options.size:
            raise Unavailable(
                f"{source}: No such file or directory",
                "give another path, or --size to make a file of that size",
            )
        if options.size % options.block_size:
            raise Invalid(
                f"a size of {options.size} bytes is no multiple of the block size, "
                f"{options.block_size} bytes",
                "give another --size or --block-size",
                field="size",
            )
        try:
            with open(source, "xb") as file:
                file.truncate(options.size)
        except OSError as error:
            raise Unavailable(
                f"{source} cannot be made: {error.strerror}",
                "see that its folder is there and this user may write to it",
            ) from error


def document_of(store: Store, options: Options) -> Document:
    """The sources of the command line as a document: a back end for each that is not attached
    yet, a volume `lunN` for each LUN, given to every initiator. Raises Invalid, Conflict."""
    attached = {r.path or r.iqn: r for r in store.list(BackendRecord)}
    known_names = {where: record.name for where, record in attached.items()}
    backends: dict[str, BackendPart] = {}
    volumes: dict[str, VolumePart] = {}
    given: set[str] = set()
    for lun, sources in sorted(options.luns.items()):
        devices = []
        for text in sources:
            source = parse_source(text, options.block_size, preallocate=options.preallocate)
            where = _where(source.backend)
            _check_as_attached(attached.get(where), source.backend)
            if where not in known_names:
                name = _free_name(source.backend, {*known_names.values(), *volumes})
                known_names[where] = name
                backends[name] = source.backend
            device = f"{known_names[where]}/{source.lun}"
            if device in given:
                raise Invalid(
                    f"{text} is given twice", "a source is a part of one LUN, once", field="source"
                )
            given.add(device)
            devices.append(device)
        volumes[f"lun{lun}"] = VolumePart(devices=tuple(devices))
    known = store.get(HostRecord, ANY_HOST)
    luns = {
        **(known.luns if known is not None else {}),
        **{lun: f"lun{lun}" for lun in options.luns},
    }
    host = HostPart(
        initiators=known.initiators if known is not None else ("*",),
        luns=luns,
        remote_copy=known.remote_copy if known is not None else (),
    )
    return Document(backend=backends, volume=volumes, host={ANY_HOST: host})


def _where(backend: BackendPart) -> str:
    return backend.path or backend.iqn


def _check_as_attached(known: BackendRecord | None, wanted: BackendPart) -> None:
    """What is attached stays as it is. Raises Conflict where the options ask for more."""
    if known is None or not wanted.path:
        return
    if wanted.block_size not in (known.block_size, Options.block_size):
        raise Conflict(
            f"{known.path} is attached with blocks of {known.block_size} bytes",
            f"leave out --block-size, or first `daiko backend rm {known.name}`",
            field="block-size",
        )
    if wanted.preallocate and not known.preallocate:
        raise Conflict(
            f"{known.path} is attached as a file that takes room as it is written",
            f"leave out --preallocate, or first `daiko backend rm {known.name}`",
            field="preallocate",
        )


def _free_name(backend: BackendPart, taken: set[str]) -> str:
    """A name made of the file's or the target's own; with a number where it is taken."""
    own = Path(backend.path).stem if backend.path else re.split(r"[:.]", backend.iqn)[-1]
    name = re.sub(r"[^a-z0-9._-]+", "-", own.lower()).strip("._-")[:48] or "disk"
    if re.fullmatch(r"lun\d+", name):
        name = f"disk-{name}"  # lunN are the names of the volumes
    number = 1
    free = name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def urls(system: System) -> list[str]:
    """The URL of each LUN that any host sees; none while every portal group is offline."""
    if not system.portals:
        return []
    portal = system.portals[0]
    host, _, port = portal.rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        portal = f"{socket.gethostname()}:{port}"
    luns = sorted({lun for record in system.store.list(HostRecord) for lun in record.luns})
    return [f"iscsi://{portal}/{system.record.iqn}/{lun}" for lun in luns]


# The API


class _Server(uvicorn.Server):
    """uvicorn as a part of this process: signals are not its business, and it does not wake the
    process ten times a second to see whether it is to stop, but is told (`leave`)."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._left = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._left.wait()

    def leave(self) -> None:
        """Make `serve` return."""
        self.should_exit = True
        self._left.set()


@dataclass(frozen=True)
class _Listening:
    """Where the API listens."""

    address: ApiAddress
    listener: socket.socket


@contextmanager
def _api_address(options: Options, folder: Path) -> Iterator[_Listening]:
    """Listen where the options say; else at the user's default address, or, where another
    controller has that, in the store's folder. Raises Invalid, Conflict, Unavailable."""
    if options.api:
        try:
            candidates = [ApiAddress.parse(options.api)]
        except ValueError as error:
            raise Invalid(str(error), field="api") from error
    else:
        candidates = [default_address(), ApiAddress(path=str(folder / "api.sock"))]
    if not all(address.is_local for address in candidates) and not options.token:
        raise Invalid(
            f"an API at {candidates[0]} can be reached from other machines and needs a token",
            "set DAIKO_TOKEN or give --token-file, here and to whoever uses it",
            field="token",
        )
    with contextlib.ExitStack() as stack:
        for address in candidates:
            try:
                if address.path:
                    listener = stack.enter_context(_unix_listener(Path(address.path)))
                else:
                    listener = stack.enter_context(_tcp_listener(address))
            except Conflict:
                if address is candidates[-1]:
                    raise
            else:
                yield _Listening(address, listener)
                return


@contextmanager
def _tcp_listener(address: ApiAddress) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
        )
    except OSError as error:
        raise Unavailable(
            f"the API cannot listen at {address}: {reason_of(error)}",
            "give another address with --api",
            field="api",
        ) from error
    with listener:
        yield listener


@contextmanager
def _unix_listener(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that only this user may use. A lock beside it, which goes with the process,
    tells a living controller's socket from one that was left behind."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_foreign(path.parent):
            raise Conflict(
                f"the API cannot listen in {path.parent}: the folder is another user's",
                "give another address with --api",
            )
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Conflict(f"the API cannot listen at {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another controller has its API at {path}", "give another address with --api"
            ) from None
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                before = os.umask(0o177)
                try:
                    listener.bind(str(path))
                finally:
                    os.umask(before)
            except OSError as error:
                raise Conflict(
                    f"the API cannot listen at {path}: {error.strerror or error}",
                    "give another address with --api",
                ) from error
            try:
                yield listener
            finally:
                path.unlink(missing_ok=True)
    finally:
        os.close(lock)


@asynccontextmanager
async def _serving_api(system: System, api: _Listening, token: str) -> AsyncIterator[None]:
    # Where only this machine reaches it, the socket's own rights decide, unless a token is wanted.
    app = create_app(system, token or None)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            date_header=False,
            timeout_graceful_shutdown=API_STOP_SECONDS,
        )
    )
    serving = asyncio.ensure_future(server.serve(sockets=[api.listener]))
    try:
        yield
    finally:
        server.leave()
        await serving


def _configure_log(options: Options, file: LogWriter) -> None:
    level = logging.getLevelNamesMapping().get(options.log_level.upper())
    if level is None:
        raise Invalid(
            f"{options.log_level!r} is no log level",
            "one of debug, info, warning and error",
            field="log_level",
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer()
            if options.log_json
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", file)),
        cache_logger_on_first_use=True,
    )
