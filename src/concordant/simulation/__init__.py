"""The parts of the simulated cohort: latent factors, chest phantoms, records, the study file.

`concordant.simulate` puts them together.
"""
