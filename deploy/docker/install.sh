#!/bin/sh
# Install healthd, healthd-yolo and healthd-snapshot-url from the checkout this lies in, in the versions of constraints.txt:
#   install.sh PREFIX [EXTRAS [PLUGINS]]     EXTRAS: of healthd-yolo, e.g. ultralytics; PLUGINS: what pip shall add
set -eu
prefix=$1 extras=${2:-} plugins=${3:-}
cd "$(dirname "$0")/../.."
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
pip() { python -m pip install --quiet --no-compile --no-warn-script-location --prefix "$prefix" "$@"; }

PIP_CONSTRAINT=constraints.txt pip ".[redis]" "./plugins/healthd-yolo${extras:+[$extras]}" ./plugins/healthd-snapshot-url
site=$(echo "$prefix"/lib/python3*/site-packages)
if [ -n "$extras" ]; then # docs/dependencies.md, "Two builds of OpenCV"
  rm -rf "$site"/opencv_python-*.dist-info "$site"/opencv_python.libs
  pip --constraint constraints.txt --force-reinstall --no-deps opencv-python-headless
fi
mkdir -p "$prefix/share/healthd"
python -m pip list --path "$site" --format freeze > "$prefix/share/healthd/installed.txt"

if [ -n "$plugins" ]; then # shellcheck disable=SC2086  several words
  PYTHONPATH=$site pip --constraint "$prefix/share/healthd/installed.txt" $plugins
fi
