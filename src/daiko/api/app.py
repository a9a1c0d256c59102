"""The REST API: an ASGI application over one `System`.

Resources are under `/v1`, one module of `routes/` per noun; `control` decides and this package only
translates. Errors are problem documents. The description is at `/v1/openapi.json`.
"""

from __future__ import annotations

import re
import secrets
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI

from daiko.api import access, problem
from daiko.api.body_limit import BodyLimit
from daiko.api.routes import (
    backends,
    backups,
    copies,
    discovery,
    functions,
    hosts,
    jobs,
    mappings,
    migrations,
    pairs,
    plans,
    portals,
    sites,
    volumes,
)
from daiko.api.routes import (
    system as system_routes,
)
from daiko.control.system import System

_DESCRIPTION = """
A storage-virtualization controller for iSCSI networks. Sizes are in blocks unless a name says
bytes; times are seconds since the epoch. Errors are problem documents (RFC 9457) whose `next_step`
says what can be done. Whatever takes long is a job: the request that starts it answers at once
with the job, which can be followed.
"""

_TAGS = [
    {"name": "system", "description": "The controller as a whole; its configuration as a file"},
    {"name": "backend", "description": "Second controllers, and disks of this controller"},
    {"name": "volume", "description": "Virtual LUs over extents, and real LUs"},
    {"name": "mapping", "description": "Which block of a volume lies where"},
    {"name": "host", "description": "Initiators, the LUNs they see, their rights"},
    {"name": "portal", "description": "Where hosts reach this controller, and how (ALUA)"},
    {"name": "site", "description": "First controllers of other sites, and the links to them"},
    {"name": "function", "description": "What each second controller can do and reach"},
    {"name": "plan", "description": "What would be done about a request, by whom, and why"},
    {"name": "backup", "description": "Direct backups and restores"},
    {"name": "copy", "description": "Volume copies"},
    {"name": "pair", "description": "Volumes that are kept the same, and can be split"},
    {"name": "job", "description": "Everything that takes long: plan, progress, report"},
]


def create_app(system: System, token: str | None = None) -> FastAPI:
    """The application over `system`. With `token` every request must carry it as a bearer token;
    without, the API must listen where only this machine reaches it."""
    app = FastAPI(
        title="Daiko",
        version=version("daiko"),
        description=_DESCRIPTION.strip(),
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        openapi_tags=_TAGS,
        dependencies=[Depends(access.check)],
    )
    app.state.system = system
    app.state.token = token
    # Versions of jobs count from 0 in each process; this tells the processes apart in ETags.
    app.state.boot = secrets.token_hex(4)
    problem.install(app)
    app.add_middleware(BodyLimit)
    # A request is compared with one route after the other, so what is asked most comes first; and
    # with all of them once more for each router that stands in another.
    for routes in (
        jobs,
        copies,
        backups,
        migrations,
        pairs,
        plans,
        volumes,
        system_routes,
        backends,
        mappings,
        hosts,
        portals,
        functions,
        sites,
        discovery,
    ):
        app.include_router(routes.router, prefix="/v1", responses=problem.RESPONSES)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Make the description say what FastAPI does not: errors come as application/problem+json, and
    an operation's summary is its name in words."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            for path in document["paths"].values():
                for operation in path.values():
                    words = re.sub(
                        r"[A-Z]", lambda upper: f" {upper[0].lower()}", operation["operationId"]
                    )
                    operation["summary"] = words.capitalize()
                    for status, answer in operation["responses"].items():
                        if status >= "400":
                            schema = next(iter(answer["content"].values()))
                            answer["content"] = {problem.MEDIA_TYPE: schema}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
