#!/bin/sh
# Do what the Dockerfile does, without an engine: the same install lines into a copy of a Python 3.12, then the same command
# as another user with a read-only file system, no capabilities and only the writable folders that the chart mounts.
#   sudo deploy/docker/check.sh [PYTHON]     needs a package index, 2 GB below /var/tmp and some minutes
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = --inside ]; then # as root in namespaces of our own
  work=$2
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 tmpfs /var/lib
  mount -t tmpfs tmpfs /tmp
  install -d -o 10001 -g 10001 /var/lib/healthd/models /var/lib/healthd/state /var/lib/healthd/plugins
  mount -o remount,ro,bind /
  cd /var/lib/healthd
  exec env -i HOME=/tmp PATH="$work/usr/bin:/usr/bin:/bin" LD_LIBRARY_PATH="$work/usr/lib" PYTHONDONTWRITEBYTECODE=1 \
    ADMIN_API_KEY=only-for-this-check-01 WORK="$work" \
    setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
    "$work/usr/bin/python" "$work/src/deploy/docker/check_inside.py"
fi

python=$(realpath "$(command -v "${1:-python3.12}")")
work=$(mktemp -d -p /var/tmp healthd-image.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
size() { find "$@" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%.0f MB in %d files\n", sum / 1e6, NR }'; }

echo "== a copy of $("$python" --version)"
cp -a "$("$python" -c 'import sys; print(sys.base_prefix)')" "$work/usr"
rm -rf "$work"/usr/lib/python3*/test "$work"/usr/lib/python3*/site-packages/*
export LD_LIBRARY_PATH="$work/usr/lib" PATH="$work/usr/bin:$PATH"
unset PYTHONPATH PYTHONDONTWRITEBYTECODE
ln -sf python3.12 "$work/usr/bin/python"
"$work/usr/bin/python" -m ensurepip >/dev/null

echo "== install"
mkdir "$work/src"
(cd "$here/../.." && git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$work/src")
cd "$work/src"
sh deploy/docker/install.sh "$work/install"
size "$work/install"
sh deploy/docker/slim.sh "$work/install"
echo "== slim"
size "$work/install"
HOME="$work" sh deploy/docker/bytecode.sh "$work/install"
install -m 644 deploy/docker/alive.py "$work/install/share/healthd/"
echo "== with the bytecode of what a daemon imports; and as it is sent"
size "$work/install"
tar -c -C "$work" install | gzip -6 | wc -c | awk '{ printf "%.0f MB compressed\n", $1 / 1e6 }'
cp -r "$work/install/." "$work/usr/" # new time stamps, as some builders give them

echo "== as user 10001, read-only"
unshare --mount --pid --fork --mount-proc sh "$here/check.sh" --inside "$work"
echo "== all is well"
