#!/usr/bin/env bash
# Build the image and run the page in a container:
#   ./start.sh [--gpu] [-v HOST:CONTAINER] [-d] [command…]
# --gpu with CUDA · -v mounts a folder, as often as wanted · -d in the background · a command instead of the page,
# for example bash or pytest. Settings: .env beside this file, see .env.example.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

fail() {
    echo "$1" >&2
    exit 2
}

if [[ -f .env ]]; then
    set -a
    # shellcheck source=/dev/null
    source ./.env
    set +a
fi

image=${DOCKER_IMAGE_NAME:-retro-explorer}
host=${HOST:-127.0.0.1}
options=()
detach=
build=()
while (($#)); do
    case $1 in
        --gpu)
            options+=(--gpus all)
            image+=-cuda
            TORCH_INDEX=${TORCH_INDEX:-https://pypi.org/simple}
            ;;
        -v | --mount)
            [[ ${2-} == ?*:?* ]] || fail "Expected HOST:CONTAINER after $1, got '${2-}'."
            options+=(-v "$2")
            shift
            ;;
        -d | --detach) detach=yes ;;
        -h | --help)
            sed -n '2,6s/^# \{0,1\}//p' "$0"
            exit
            ;;
        -*) fail "Unrecognised option '$1'. Expected --gpu, -v HOST:CONTAINER or -d." ;;
        *) break ;;
    esac
    shift
done
name=${CONTAINER_NAME:-${image//\//-}}

if [[ -n $detach ]]; then
    options+=(--detach)
elif [[ -t 0 && -t 1 ]]; then
    options+=(--interactive --tty)
fi
[[ -z ${DATA_DIR-} ]] || options+=(-v "$DATA_DIR:/data")
[[ -z ${TORCH_INDEX-} ]] || build+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
# What is published to this computer alone is as good as one's own program.
[[ $host != 127.0.0.1 ]] || export RETRO_MODE=${RETRO_MODE:-local}
for setting in RETRO_MODE RETRO_PASSWORD RETRO_ALLOW_FETCH RETRO_ALLOWED_HOSTS RETRO_PROXY RETRO_WARM_AFTER; do
    # By name only: values of a command line can be seen by every user of the computer.
    [[ -z ${!setting-} ]] || { export "${setting?}" && options+=(--env "$setting"); }
done
user=$(id -u)
((user > 0)) || user=1000

docker stop "$name" >/dev/null 2>&1 || true
docker build --build-arg "UID=$user" ${build[@]+"${build[@]}"} -t "$image" .
exec docker run --rm --init --name "$name" \
    --publish "$host:${PORT:-7860}:7860" \
    --volume "${HOME_VOLUME_NAME:-$name-home}:/home/retro/.retro" \
    --shm-size 1g --cap-drop ALL --security-opt no-new-privileges \
    "${options[@]}" "$image" "$@"
