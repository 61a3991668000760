#!/bin/sh
# Prints the path of a livekit-server, getting one first where there is none:
# on the PATH, else .bin/ of this project, else built with Go, else run by Docker.
# Exit status 3: none can be had here. With --find nothing is got, only looked for.
set -eu

version=v1.13.5 # also the tag of the Docker image
module=github.com/livekit/livekit-server/cmd/server
image=livekit/livekit-server:$version
cd "$(dirname "$0")/.."
server=$PWD/.bin/livekit-server

say() { echo "livekit-server: $*" >&2; }

found() {
    echo "$1"
    exit 0
}

# A build goes to a directory of its own and is moved in whole: .bin/ never holds half a program.
build_with_go() {
    say "building $version with Go, once (about two minutes)"
    if GOBIN=$new GOFLAGS= go install "$module@$version" >"$new/log" 2>&1; then
        mv -f "$new/server" "$server"
    else
        tail -n 5 "$new/log" >&2
        return 1
    fi
}

wrap_docker() {
    say "fetching the Docker image $image, once"
    docker pull --quiet "$image" >&2 || return
    cat >"$new/wrapper" <<END
#!/bin/sh
# livekit-server $version in Docker, on the host's network; it reads files here and in the temporary directory.
exec docker run --rm --init --network host --env LIVEKIT_CONFIG --env LIVEKIT_KEYS \\
    --volume "\$PWD:\$PWD:ro" --volume "\${TMPDIR:-/tmp}:\${TMPDIR:-/tmp}:ro" --workdir "\$PWD" $image "\$@"
END
    chmod +x "$new/wrapper"
    mv -f "$new/wrapper" "$server"
}

on_path=$(command -v livekit-server) && found "$on_path"
if [ -x "$server" ]; then
    case $("$server" --version 2>/dev/null) in *"${version#v}"*) found "$server" ;; esac
    say "$server is not $version, or does not start"
fi
[ "${1-}" = --find ] && exit 3

mkdir -p .bin
new=$(mktemp -d "$PWD/.bin/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if command -v go >/dev/null; then
    build_with_go && found "$server"
    say "the build failed"
fi
if docker info >/dev/null 2>&1; then
    wrap_docker && found "$server"
    say "the image could not be fetched"
fi
say "none could be had. Have 'livekit-server' on the PATH (any recent version; $version is the tested one),"
say "or Go or Docker to get it with, and try again."
exit 3
