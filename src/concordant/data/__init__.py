"""Left of the store: cohort tables, records, scans, feature files, and the audit of splits."""
