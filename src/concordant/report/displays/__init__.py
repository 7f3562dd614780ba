"""The figures: each a tidy frame and how a plotting library draws it."""
