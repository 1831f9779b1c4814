#!/usr/bin/env bash
# Records docs/session.txt: what a person sees on the way from a new board to measured files.
#
#   QAEDGE_ARM_TARGET=SCRIPT tests/device/record.sh
#
# Needs a finished `make demo`. The board is the aarch64 machine that SCRIPT starts (see test_aarch64.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
qaedge="$PWD/.venv/bin/qaedge"
repository="$PWD"
output="$PWD/docs/session.txt"
folder="$(mktemp -d)"
export ARM_TARGET_RUN="$folder/target"
trap '"$QAEDGE_ARM_TARGET" stop >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
eval "$("$QAEDGE_ARM_TARGET" start)"
fingerprint="$("$QAEDGE_ARM_TARGET" ssh cat /etc/ssh/ssh_host_ed25519_key.pub | ssh-keygen -lf - | cut -d' ' -f2)"

export HOME="$folder/home"
mkdir -p "$HOME/.ssh" "$folder/work"
cp "$ARM_TARGET_KEY" "$HOME/.ssh/id_ed25519"
chmod 600 "$HOME/.ssh/id_ed25519"
cp demo/qaedge.toml demo/space.toml demo/teacher.safetensors demo/*.onnx demo/*.onnx.json "$folder/work/"
cd "$folder/work"

say() {
    printf '$ qaedge %s\n' "$*"
    "$qaedge" "$@" 2>&1 || true
    echo
}

{
    echo "An emulated aarch64 Linux behind a real SSH server, without internet. Its times are those of a simulated"
    echo "processor that needs a nanosecond for each instruction, not those of any board. Where nobody sits at a"
    echo "terminal, as here, \`device add\` takes the fingerprint from --fingerprint instead of asking."
    echo
    say device add board "$ARM_TARGET_USER@$ARM_TARGET_HOST:$ARM_TARGET_PORT" --fingerprint "$fingerprint"
    # A guest that computes lags behind the clock on the wall, and its heartbeat with it.
    sed -i '1i patience_s = 90.0' devices/board.toml
    say device setup board --offline
    say device check board
    say device tune board
    say profile --device board
    say bench teacher.onnx student.onnx --device board
    say devices
} | sed "s#$folder/home#/home/me#g; s#$folder/work#/home/me/work#g; s#$repository#/home/me/qaedge#g" | tee "$output"
