"""The study that goes with a simulated cohort: every fusion on it, read against the oracles."""

from __future__ import annotations

STUDY = """\
# A simulated cohort: run it with `concordant run study.yaml`.
# The oracles know the latent factors that a set of modalities shows:
# no model can do better than they in the long run.
name: simulated
task: {event: death, horizons_days: [180, 365, 730]}
cohorts:
  development: {table: development/cohort.parquet, meds: development/meds}
  external: [{name: site_b, table: external/cohort.parquet, meds: external/meds}]
encoders:
  ct: volume_features
  ehr: {name: one_hot, values: last}
train: {patience: 15}   # half the default: the demo is to be quick
grid:
  fusion:
    - {name: unimodal, modality: ct}
    - {name: unimodal, modality: ehr}
    - linear
    - concat
    - late
    - {name: late, combine: mean}
    - contrastive
    - {name: contrastive, regime: two_stage}
    - {name: cross_attention, query: ct}
    - {name: cross_attention, query: ehr}
    - {name: cross_attention, query: both}
    - {name: co_attention, guide: ct}
    - {name: co_attention, guide: ehr}
    - {name: co_attention, guide: both}
foreign:
  - {name: oracle(ct), table: truth/oracle_ct.parquet}
  - {name: oracle(ehr), table: truth/oracle_ehr.parquet}
  - {name: oracle(both), table: truth/oracle_both.parquet}
"""
