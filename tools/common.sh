# Shared by run-demo, run-tests and tools/*: where things are, and how to speak. Sourced by bash.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
guest_dir="$top/build/guest"

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "${0##*/}: $*" >&2; exit 1; }

# Runs a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root or sudo for: $*"
  fi
}

# apt's package lists: fetched once per call of a script, and only when something is missing from them.
update_lists() {
  [ -z "${lists_updated:-}" ] || return 0
  lists_updated=1
  say "updating the package lists"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update ||
    say "apt-get update failed; going on with the lists that are here"
}
