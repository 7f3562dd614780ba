"""Options of the simulated cohort; the command line makes one option of each field."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SimulationOptions(BaseModel):
    """What is simulated: factors are standard normal, the external site differs by shifts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_development: int = Field(
        400, ge=40, le=999_999, description="Subjects of the development site, split 60/15/25."
    )
    n_external: int = Field(150, ge=20, le=999_999, description="Subjects of the external site.")
    ct_signal: float = Field(
        0.8,
        ge=0,
        le=5,
        description="Weight in the log-hazard of the factor that only the scan shows.",
    )
    ehr_signal: float = Field(
        0.8,
        ge=0,
        le=5,
        description="Weight in the log-hazard of the factor that only the record shows.",
    )
    shared_signal: float = Field(
        0.6, ge=0, le=5, description="Weight in the log-hazard of the factor that both show."
    )
    interaction: float = Field(
        0.0,
        ge=-5,
        le=5,
        description="Weight in the log-hazard of the product of the scan's and record's factor.",
    )
    censoring: float = Field(
        0.4, ge=0, le=0.9, description="Expected share of subjects whose event is not observed."
    )
    missing_ct: float = Field(0.05, ge=0, lt=1, description="Share of subjects without a scan.")
    missing_ehr: float = Field(0.05, ge=0, lt=1, description="Share of subjects without a record.")
    intensity_shift: float = Field(
        20.0,
        ge=0,
        le=200,
        description="The external scanner reads this many HU too high; its contrast and noise grow "
        "along with it.",
    )
    coding_shift: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Share of codes that the external site writes differently or not at all.",
    )
    case_mix_shift: float = Field(
        0.3,
        ge=-3,
        le=3,
        description="By how much the external site's factors are higher, in standard deviations.",
    )
    volume_size: int = Field(48, ge=48, le=512, description="Voxels of a scan along each axis.")
    seed: int = Field(
        0, ge=0, description="The same seed gives the same cohort, whatever the number of workers."
    )
