"""The comparisons of benchmarks/conformance.py: importing a module of checks registers them."""
