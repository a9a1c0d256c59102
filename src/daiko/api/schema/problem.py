"""An error, as RFC 9457 describes it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One field of a request that is not right."""

    field: str = Field(description="Dotted path into the request body, or the parameter's name")
    message: str


class Problem(BaseModel):
    """A request that was not done; nothing was changed (RFC 9457, application/problem+json)."""

    type: str = Field(
        description="urn:daiko:problem: and not-found, conflict, invalid, unavailable, "
        "unauthorized, forbidden or failed",
        examples=["urn:daiko:problem:conflict"],
    )
    title: str = Field(
        description="The condition in general", examples=["What exists forbids this"]
    )
    status: int = Field(examples=[409])
    detail: str = Field(
        description="What is wrong, in one sentence", examples=["'sd1' holds data of 'alpha'"]
    )
    next_step: str = Field(
        default="",
        description="What can be done about it",
        examples=["take the volume away first, with `daiko volume rm alpha`"],
    )
    field: str = Field(
        default="", description="The field of the request that is at fault, if one is"
    )
    errors: list[FieldError] = Field(
        default=[], description="Every field at fault, where the request did not fit the schema"
    )
