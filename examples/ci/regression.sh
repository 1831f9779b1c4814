#!/usr/bin/env bash
# Is this branch slower than the one it is merged into, on a real device? For any CI, on a machine beside the board.
#
#   regression.sh SUITE [BASE]
#
# SUITE   a benchmarks.toml (docs/regression.md); BASE the branch to compare with, origin/main without it.
#
# Models whose files differ from those of BASE are measured in turn with them; the others are held against saved
# results (baselines/BASELINE), where there are some. A suite that names baseline files itself is taken as it is.
#
# Reports go to $REPORTS, regression/ without it. $HISTORY is a file that each run adds to, if it is set: keep it outside
# the checkout, and set it on the main branch alone. $QAEDGE is the command, $BASELINE the name of the saved results (main).
# Exit status: 0 fine, 3 slower or a limit is not kept, 4 not decided, 1 an error.
set -uo pipefail

suite=${1:?usage: regression.sh SUITE [BASE]}
base=${2:-origin/main}
read -r -a qaedge <<<"${QAEDGE:-qaedge}"
folder=$(cd "$(dirname "$suite")" && pwd) || exit 1
mkdir -p "${REPORTS:-regression}/base" && reports=$(cd "${REPORTS:-regression}" && pwd) || exit 1
baseline=${BASELINE:-main}

git rev-parse --verify --quiet "$base^{commit}" >/dev/null || {
    echo "error: git knows no $base here. Fetch it first (actions/checkout: fetch-depth: 0), or name another." >&2
    exit 1
}

# The board, before it is trusted: heat, throttling, governor, load.
for device in $(sed -n 's/^devices *= *\[\(.*\)\].*/\1/p' "$suite" | tr -d '",' | tr ' ' '\n' | sort -u); do
    "${qaedge[@]}" device check "$device" || echo "warning: $device is not as it should be; see above" >&2
done

of_base() { # the file as BASE has it, if that is another one
    local old="$reports/base/${1//\//_}"
    git -C "$folder" cat-file -e "$base:./$1" 2>/dev/null || return 1
    git -C "$folder" show "$base:./$1" >"$old" || return 1 # a file of git-lfs: git show ... | git lfs smudge
    ! cmp -s "$old" "$folder/$1" && printf '%s' "$old"
}

# The suite, with the files of BASE as baselines. It lies beside the other: its paths are relative.
taken=$folder/.$(basename "$suite" .toml)-with-base.toml
trap 'rm -f "$taken"' EXIT
while IFS= read -r line || [[ -n $line ]]; do
    printf '%s\n' "$line"
    if [[ $line =~ ^file\ *=\ *\"([^\"]+)\" ]] && ! grep -q '^baseline *=' "$suite"; then
        old=$(of_base "${BASH_REMATCH[1]}") && printf 'baseline = "%s"\n' "$old"
    fi
done <"$suite" >"$taken"

flags=(--wait 30min --junit "$reports/suite.xml" --markdown "$reports/suite.md")
[[ -d $folder/baselines/$baseline ]] && flags+=(--against "$baseline")
[[ -n ${HISTORY:-} ]] && flags+=(--history "$HISTORY")
[[ -n ${GITHUB_ACTIONS:-} ]] && flags+=(--github)
"${qaedge[@]}" bench --suite "$taken" "${flags[@]}"
status=$?
[[ -n ${HISTORY:-} && -e ${HISTORY:-} ]] && "${qaedge[@]}" history "$HISTORY"
exit "$status"
