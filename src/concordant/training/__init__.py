"""Everything that is fitted: scaling, vocabulary, model, view weights, baseline hazard."""
