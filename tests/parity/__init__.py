"""How far jaxft is from PyTorch: measured for the tests, and for the tables that benchmarks/fidelity.py writes."""
