"""Diagnoses, drugs, procedures and laboratory values of the simulation, and their factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
PALLIATIVE = "ICD10CM//Z51.5"
"""Written in the days before a death, always after the prediction time.

A reader that lets it through has a leak.
"""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A diagnosis, drug or procedure code that a subject has or has not.

    Attributes:
        code: MEDS code.
        meaning: In words.
        level: Logit of its presence at factors 0.
        ehr: Slope on the factor that only the record shows.
        shared: Slope on the factor that the scan shows too.
    """

    code: str
    meaning: str
    level: float
    ehr: float = 0.0
    shared: float = 0.0


@dataclass(frozen=True, slots=True)
class Laboratory:
    """A value: mean + sd * (ehr * factor + shared * factor) and a residual (`records.RESIDUAL`).

    Attributes:
        code: MEDS code.
        meaning: In words.
        mean: At factors 0.
        sd: Unit of the slopes.
        ehr: Slope on the factor that only the record shows.
        shared: Slope on the factor that the scan shows too.
    """

    code: str
    meaning: str
    mean: float
    sd: float
    ehr: float = 0.0
    shared: float = 0.0


DIAGNOSES = (
    Diagnosis("ICD10CM//E11.9", "type 2 diabetes mellitus without complications", -1.2, ehr=1.2),
    Diagnosis("ICD10CM//I10", "essential hypertension", 0.0, ehr=1.0),
    Diagnosis("ICD10CM//N18.30", "chronic kidney disease, stage 3", -1.6, ehr=1.3),
    Diagnosis(
        "ICD10CM//I25.10", "atherosclerotic heart disease of native coronary artery", -1.3, ehr=1.2
    ),
    Diagnosis("ICD10CM//D64.9", "anaemia", -1.0, ehr=1.1),
    Diagnosis("ICD10CM//F17.210", "nicotine dependence, cigarettes", -1.2, ehr=0.8),
    Diagnosis("ICD10CM//Z79.4", "long-term use of insulin", -2.0, ehr=1.2),
    Diagnosis("RxNorm//6809", "metformin", -1.3, ehr=1.1),
    Diagnosis("RxNorm//29046", "lisinopril", -0.6, ehr=0.9),
    Diagnosis("RxNorm//83367", "atorvastatin", -0.5, ehr=0.9),
    Diagnosis("RxNorm//7052", "morphine", -2.0, ehr=1.0),
    Diagnosis("ICD10CM//I50.9", "heart failure", -1.4, shared=1.3),
    Diagnosis("ICD10CM//I27.20", "pulmonary hypertension", -2.0, shared=1.4),
    Diagnosis("ICD10CM//R06.02", "shortness of breath", -0.2, shared=1.0),
    Diagnosis("ICD10CM//R60.0", "localised oedema", -1.2, shared=1.1),
    Diagnosis("RxNorm//4603", "furosemide", -1.0, shared=1.2),
    Diagnosis("CPT4//93306", "transthoracic echocardiography", -0.8, shared=0.9),
    *(
        Diagnosis(code, meaning, level)
        for code, meaning, level in (
            ("ICD10CM//M54.50", "low back pain", -1.0),
            ("ICD10CM//K21.9", "gastro-oesophageal reflux", -0.9),
            ("ICD10CM//J06.9", "acute upper respiratory infection", -1.2),
            ("ICD10CM//R51.9", "headache", -1.7),
            ("ICD10CM//L30.9", "dermatitis", -2.2),
            ("ICD10CM//H52.4", "presbyopia", -1.5),
            ("ICD10CM//M17.11", "osteoarthritis of the right knee", -1.8),
            ("ICD10CM//E55.9", "vitamin D deficiency", -1.4),
            ("ICD10CM//G47.00", "insomnia", -1.8),
            ("ICD10CM//N39.0", "urinary tract infection", -1.7),
            ("ICD10CM//F41.9", "anxiety disorder", -1.6),
            ("ICD10CM//Z00.00", "general adult medical examination", 0.2),
            ("ICD10CM//Z23", "immunisation", 0.3),
            ("ICD10CM//B35.1", "tinea unguium", -2.6),
            ("RxNorm//5640", "ibuprofen", -0.7),
            ("RxNorm//161", "paracetamol", 0.1),
            ("RxNorm//7646", "omeprazole", -0.9),
            ("RxNorm//723", "amoxicillin", -1.3),
            ("RxNorm//10582", "levothyroxine", -2.0),
            ("CPT4//71046", "chest radiograph, two views", 0.0),
            ("CPT4//99213", "office visit, established patient", 0.8),
            ("CPT4//36415", "venepuncture", 1.0),
        )
    ),
)
LABORATORIES = (
    Laboratory("LOINC//2160-0", "creatinine [mg/dL]", 1.1, 0.22, ehr=1.0),
    Laboratory("LOINC//718-7", "haemoglobin [g/dL]", 12.8, 1.3, ehr=-1.0),
    Laboratory("LOINC//1751-7", "albumin [g/dL]", 3.9, 0.35, ehr=-1.0),
    Laboratory("LOINC//4548-4", "haemoglobin A1c [%]", 6.0, 0.7, ehr=0.8),
    Laboratory("LOINC//8867-4", "heart rate [/min]", 82.0, 12.0, shared=1.0),
    Laboratory("LOINC//59408-5", "oxygen saturation [%]", 94.0, 1.8, shared=-1.0),
    Laboratory("LOINC//2524-7", "lactate [mmol/L]", 1.7, 0.35, shared=0.8),
    Laboratory("LOINC//2951-2", "sodium [mmol/L]", 139.0, 3.0),
    Laboratory("LOINC//2823-3", "potassium [mmol/L]", 4.2, 0.4),
    Laboratory("LOINC//777-3", "platelets [10^3/uL]", 240.0, 60.0),
    Laboratory("LOINC//6690-2", "leukocytes [10^3/uL]", 8.0, 2.0),
    Laboratory("LOINC//29463-7", "body weight [kg]", 79.0, 14.0),
)
MEANINGS = {each.code: each.meaning for each in DIAGNOSES} | {
    each.code: each.meaning for each in LABORATORIES
}
_ALWAYS = {
    BIRTH: "birth",
    DEATH: "death",
    "GENDER//F": "female",
    "GENDER//M": "male",
    PALLIATIVE: "encounter for palliative care",
}


def coding_practice(share: float, rng: np.random.Generator) -> dict[str, str | None]:
    """Draw how a site writes a share of codes: half under local names, half (None) not."""
    draws = zip(MEANINGS, rng.random(len(MEANINGS)), strict=True)
    return {
        code: None if draw < share / 2 else f"LOCAL//{number:04d}"
        for number, (code, draw) in enumerate(draws)
        if draw < share
    }


def codes_table(coding: Mapping[str, str | None]) -> pl.DataFrame:
    """Return the `metadata/codes.parquet` of a site that writes codes down in its own way."""
    meanings = _ALWAYS | {
        name: meaning
        for code, meaning in MEANINGS.items()
        if (name := coding.get(code, code)) is not None
    }
    columns = {
        "code": list(meanings),
        "description": list(meanings.values()),
        "parent_codes": [None] * len(meanings),
    }
    return pl.DataFrame(
        columns,
        schema={"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)},
    ).sort("code")
