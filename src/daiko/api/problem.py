"""Every error of the API as one problem document (RFC 9457)."""

from __future__ import annotations

from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from daiko.api.schema.problem import FieldError, Problem
from daiko.control.error import Conflict, ControlError, Invalid, NotFound, Unavailable
from daiko.state.store import StoreError

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
PREFIX: Final = "urn:daiko:problem:"

STATUS: Final[dict[type[ControlError], int]] = {
    NotFound: 404,
    Conflict: 409,
    Invalid: 422,
    Unavailable: 503,
    ControlError: 500,
}
"""One HTTP status for each way in which a request fails."""

_HTTP_SLUG: Final = {401: "unauthorized", 403: "forbidden", 404: "not-found"}

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "The token is missing or wrong"},
    404: {"model": Problem, "description": "No such thing"},
    409: {"model": Problem, "description": "What exists forbids this"},
    422: {"model": Problem, "description": "The request is not right"},
    503: {"model": Problem, "description": "Something needed does not answer"},
}
"""For the OpenAPI description of every operation."""


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(ControlError, _control_error)
    app.add_exception_handler(StoreError, _store_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)


def response(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """The document as an HTTP response."""
    return JSONResponse(
        problem.model_dump(), problem.status, media_type=MEDIA_TYPE, headers=headers
    )


async def _control_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
    return response(
        Problem(
            type=PREFIX + error.slug,
            title=error.title,
            status=status,
            detail=error.message,
            next_step=error.next_step,
            field=error.field,
        )
    )


async def _store_error(request: Request, error: Exception) -> Response:
    log.error("store_failed", path=request.url.path, error=str(error))
    return response(
        Problem(
            type=PREFIX + "failed",
            title="The store failed",
            status=500,
            detail=str(error),
            next_step="look at the disk that holds the store; nothing was changed",
        )
    )


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(
            # The first part says where (body, path, query); the rest is the path into it.
            field=".".join(str(part) for part in found["loc"][1:]) or str(found["loc"][0]),
            message=str(found["msg"]),
        )
        for found in error.errors()
    ]
    first = errors[0]
    return response(
        Problem(
            type=PREFIX + "invalid",
            title=Invalid.title,
            status=422,
            detail=f"{first.field}: {first.message}",
            next_step="the description of the API is at /v1/openapi.json",
            field=first.field,
            errors=errors,
        )
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = _HTTP_SLUG.get(error.status_code, "failed")
    detail = str(error.detail)
    return response(
        Problem(
            type=PREFIX + slug,
            title=detail,
            status=error.status_code,
            detail=f"{request.method} {request.url.path}: {detail}",
            next_step="the description of the API is at /v1/openapi.json",
        ),
        dict(error.headers or {}),
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return response(
        Problem(
            type=PREFIX + "failed",
            title="The controller failed",
            status=500,
            detail=f"{type(error).__name__}: {error}",
            next_step="its log says where; please report it",
        )
    )
