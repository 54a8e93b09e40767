# Sourced by ./ninelives, ./demo and ./test: brings this checkout to where dist/cli/main.js can run.
# Expects $root (the checkout). Everything it says goes to stderr, so that `--json` output stays clean.

say() {
  printf '%s\n' "$*" >&2
}

# fail CODE STATUS MESSAGE FIX, in the words of docs/reference/errors.md.
fail() {
  say "error $1: $3"
  say "fix: $4"
  exit "$2"
}

# Fails unless Node.js is at least 20.19. Debian 12 itself only has 18.
check_node() {
  if ! command -v node >/dev/null 2>&1; then
    fail NL_PACKAGE_MISSING 3 'Node.js is not installed' \
      'install Node.js 20.19 or newer from https://nodejs.org (the one in Debian 12 is too old)'
  fi
  version=$(node --version)
  numbers=${version#v}
  major=${numbers%%.*}
  rest=${numbers#*.}
  minor=${rest%%.*}
  if [ "$major" -lt 20 ] || { [ "$major" -eq 20 ] && [ "$minor" -lt 19 ]; }; then
    fail NL_PACKAGE_MISSING 3 "Node.js 20.19 or newer is needed, this is $version" \
      'install a newer Node.js from https://nodejs.org (the one in Debian 12 is too old)'
  fi
}

# timed LABEL COMMAND...: runs it quietly, shows its output only when it fails.
timed() {
  label=$1
  shift
  started=$(date +%s)
  printf '%s ... ' "$label" >&2
  if output=$("$@" 2>&1); then
    say "done ($(($(date +%s) - started)) s)"
  else
    status=$?
    say 'failed'
    say "$output"
    return "$status"
  fi
}

packages_are_stale() {
  [ ! -e "$root/node_modules/.package-lock.json" ] ||
    [ "$root/package-lock.json" -nt "$root/node_modules/.package-lock.json" ]
}

# A stamp that is touched after a build that succeeded; folders count too, so that removed files are noticed.
build_is_stale() {
  [ ! -e "$root/dist/.built" ] ||
    [ -n "$(find "$root/src" "$root/package.json" "$root/tsconfig.json" "$root/tsconfig.build.json" \
      -newer "$root/dist/.built" -print -quit)" ]
}

install_packages() {
  # Not `npm ci`: it refuses a lock file without the optional packages of other platforms, and newer npm writes none.
  cd "$root" && npm install --no-save --no-audit --no-fund --loglevel=error </dev/null
}

build() {
  cd "$root" && touch_time=$(date +%s) && npm run --silent build </dev/null && touch -d "@$touch_time" dist/.built
}

# Installs npm packages and builds, when needed. Two at once take turns; the lock is on package.json, so no file is left.
prepare() {
  check_node
  if packages_are_stale || build_is_stale; then
    exec 9<"$root/package.json"
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if packages_are_stale; then
      timed 'installing npm packages (once, about 100 MB)' install_packages ||
        fail NL_PACKAGE_MISSING 3 'npm packages could not be installed' \
          'check the network and that this folder is writable, then run it again'
    fi
    if build_is_stale; then
      timed 'building ninelives' build ||
        fail NL_INTERNAL 70 'ninelives could not be built' 'run "npm run check" to see what is wrong in src/'
    fi
    exec 9<&-
  fi
}
