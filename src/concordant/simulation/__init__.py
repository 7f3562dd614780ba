"""The parts of the simulated cohort, which `concordant.simulate` puts together."""
