"""The embedding store, the first waist of the house, and the extraction that fills it."""
