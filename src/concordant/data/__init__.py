"""Left of the store: cohort tables, MEDS records, NIfTI scans, feature files, and the audit of
splits.
"""
