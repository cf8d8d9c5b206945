#!/bin/sh
# Usage: debian-packages.sh COMMAND=PACKAGE...
# Installs the Debian packages whose commands are missing, where that is allowed (root, or sudo without a password);
# elsewhere it names them and goes on: what needs them says so itself.
set -eu
missing=
for pair in "$@"; do
    command=${pair%%=*}
    command -v "$command" >/dev/null 2>&1 || [ -x "/usr/sbin/$command" ] || [ -x "/usr/lib/podman/$command" ] ||
        missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing, and there is no apt-get to install them:$missing" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "missing; to install them: sudo apt-get install -y$missing" >&2
    exit 0
fi
echo "installing:$missing" >&2
$as_root apt-get update -qq >&2
# A package that starts a daemon on installation would take ports that the tests or the operator want.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod +x $policy
    trap "$as_root rm -f $policy" EXIT
fi
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
