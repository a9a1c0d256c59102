"""CHAP: secrets go in and never come out."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, SecretStr

from daiko.control.chap import Chap, ChapState


class ChapView(BaseModel):
    """By which users a login proves itself. The secrets are not to be seen."""

    user: str = Field(description="The initiator's: a host's, or ours at a back end")
    secret_is_set: bool = Field(description="False: nobody gets in until it is given")
    mutual_user: str = Field(description="The target's; empty: it does not prove itself")
    mutual_secret_is_set: bool

    @classmethod
    def of(cls, state: ChapState) -> Self:
        return cls(
            user=state.user,
            secret_is_set=state.secret_is_set,
            mutual_user=state.mutual_user,
            mutual_secret_is_set=state.mutual_secret_is_set,
        )

    @classmethod
    def of_any(cls, state: ChapState | None) -> Self | None:
        return None if state is None else cls.of(state)


class SetChap(BaseModel, extra="forbid", hide_input_in_errors=True):
    """A CHAP user and its secret; with the mutual ones the target proves itself too."""

    user: str = Field(examples=["db1"])
    secret: SecretStr = Field(description="12 to 255 bytes", json_schema_extra={"writeOnly": True})
    mutual_user: str = Field(default="", examples=["array"])
    mutual_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Another one than `secret`",
        json_schema_extra={"writeOnly": True},
    )

    def chap(self) -> Chap:
        """For `control`."""
        return Chap(
            self.user,
            self.secret.get_secret_value(),
            self.mutual_user,
            self.mutual_secret.get_secret_value(),
        )
