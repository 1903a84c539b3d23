#!/bin/bash
# Runs the tests on the newest Python, for what older ones lack (the backend `interpreter` needs 3.14). `make test-newest`.
#
# Where that Python is not installed it comes from Debian sid, into a directory of its own (.newest, some 500 MB) used with
# chroot: nothing else on this machine changes. Mounts are made in a name space that ends with this script.
set -euo pipefail

version=3.14
here=$(cd "$(dirname "$0")/.." && pwd)
root=${NEWEST:-$here/.newest}
certificates=/etc/ssl/certs/ca-certificates.crt

give_up() {
    echo "make test-newest: $1" >&2
    exit 1
}

if command -v "python$version" >/dev/null && "python$version" -c 'import venv, ensurepip' 2>/dev/null; then
    give_up "python$version is installed here: use make test PYTHON=python$version"
fi

set_up() {
    [ "$(id -u)" = 0 ] || give_up "only root can use chroot; or install Python $version: make test PYTHON=python$version"
    command -v unshare >/dev/null || give_up "unshare is missing; install util-linux"
    if [ ! -e "$root/usr/bin/python$version" ]; then
        command -v debootstrap >/dev/null || give_up "debootstrap is missing; apt-get update && apt-get install debootstrap"
        echo "== Python $version from Debian sid into $root"
        packages="python$version-full,python$version-venv,ca-certificates"
        debootstrap --variant=minbase --include="$packages" sid "$root" >"$root.log" 2>&1 \
            || give_up "debootstrap failed (no network?); its output is in $root.log"
    fi
    [ -x "$root/venv/bin/python" ] || chroot "$root" "python$version" -m venv /venv
    # The names and certificates of this machine: it may reach the index through a proxy of its own.
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    [ ! -e "$certificates" ] || cp -L "$certificates" "$root$certificates"
}

copy() { # the checkout as it is, and what its tests need
    rm -rf "$root/work" && mkdir "$root/work"
    git ls-files -z --cached --others --exclude-standard | tar --null --files-from - --create | tar -x -C "$root/work"
    chroot "$root" /venv/bin/pip --quiet --disable-pip-version-check install -e '/work[test]' \
        || give_up "pip could not install what the tests need (no network?)"
    chroot "$root" /venv/bin/python -m compileall -q /work/taskrun
}

run() { # pytest's arguments
    # shellcheck disable=SC2016 # expanded inside
    unshare --mount bash -c '
        set -e; root=$1; shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONMALLOC=default \
            sh -c "cd /work && exec python -W error -X dev -m pytest \"\$@\"" sh \
            --dist worksteal --tx "$(( 2 * $(getconf _NPROCESSORS_ONLN) ))*popen//python=/venv/bin/python -W error -X dev" "$@"
    ' bash "$root" "$@"
}

cd "$here"
set_up
copy

if [ $# -gt 0 ]; then
    run "$@"
    exit
fi
failed=0
echo "== the backend interpreter"
run tests/conformance/test_backends.py -k TestInterpreter || failed=1
run tests/unit/test_interpreter_backend.py tests/programs/test_interpreters.py || failed=1
echo "== everything else"
run --deselect tests/conformance/test_backends.py::TestInterpreter --deselect tests/unit/test_interpreter_backend.py \
    --deselect tests/programs/test_interpreters.py || failed=1
exit $failed
