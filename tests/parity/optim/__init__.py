"""Families of optimizer references, one module each: see `common.py` for what a case is, `../trajectories.py` for what becomes of it."""
