"""OMOP CDM 5.3 and 5.4 to MEDS 0.4."""

from concordant.data.omop.convert import OmopConversion as OmopConversion
from concordant.data.omop.convert import convert_omop as convert_omop
from concordant.data.omop.kinds import OmopOptions as OmopOptions
