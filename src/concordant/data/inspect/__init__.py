"""INSPECT (Stanford AIMI): CT pulmonary angiograms with records and outcomes, to a cohort table."""

from concordant.data.inspect.cohort import InspectCohort as InspectCohort
from concordant.data.inspect.cohort import InspectOptions as InspectOptions
from concordant.data.inspect.cohort import inspect_cohort as inspect_cohort
