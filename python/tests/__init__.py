"""Tests of the Python module; with JAX they want two devices, which must be said before it is imported."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
