"""Tests of the package: `python -m unittest discover -s python/tests -t python`, with OPTC_LIBRARY naming a built library."""
