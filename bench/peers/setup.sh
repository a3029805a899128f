#!/bin/sh
# Makes the Python environment of the peers: setup.sh DIR [torch]. DIR must lie outside the repository. JAX takes seconds and 1 GB; torch brings GPU libraries even
# for a CPU: 6 GB.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$1"
"$1/bin/pip" install -q -r "$here/requirements.txt"
if [ "${2:-}" = torch ]; then "$1/bin/pip" install -q -r "$here/requirements-torch.txt"; fi
