"""What settings may say about the places that results are delivered to: the section `deliver`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backfill_spark.settings.judges import address, names, variable

Kind = Literal["mlflow", "phoenix", "langfuse", "otel"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SinkSettings(_Section):
    """One server that results are delivered to, with `deliver JOB --to <name>`."""

    kind: Kind | None = Field(None, description="What it is; default: what the name says.")
    base_url: str | None = Field(None, description="Address, such as http://host:5000.")
    user_env: str | None = Field(
        None, description="Environment variable that holds the user or public key; then key_env is its password."
    )
    key_env: str | None = Field(None, description="Environment variable that holds the key, token or password.")
    project: str = Field("default", description="Phoenix: project of the traces, for the read-back.")
    rpm: float | None = Field(None, gt=0, allow_inf_nan=False, description="Requests per minute; default: no limit.")
    max_in_flight: int = Field(8, ge=1, le=1_000, description="Requests that are open at a time.")
    timeout_s: float = Field(60, gt=0, allow_inf_nan=False, description="Longest time that one answer may take.")
    settle_s: float = Field(
        60, ge=0, allow_inf_nan=False, description="How long a read-back waits for results that show late (langfuse)."
    )

    _is_address = field_validator("base_url")(address)
    _are_variables = field_validator("user_env", "key_env")(variable)


class DeliverySettings(_Section):
    """Where results are delivered to."""

    sinks: dict[str, SinkSettings] = Field(default_factory=dict, description="Name: server.")

    _are_names = field_validator("sinks")(names)
