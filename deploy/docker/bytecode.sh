#!/bin/sh
# Run the demo from an installed prefix, and leave the bytecode of what it imported: on a read-only file system Python could not.
#   bytecode.sh PREFIX
# The bytecode is marked as valid whatever becomes of the files' time stamps on their way into the image.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"/lib/python3*/site-packages
PYTHONPATH=$PWD python "$here/smoke.py"
find . -name '*.pyc' | sed -E 's|__pycache__/([^/]+)\.cpython-[0-9]+\.pyc$|\1.py|' |
  python -m compileall -q -f --invalidation-mode unchecked-hash -i -
