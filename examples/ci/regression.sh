#!/usr/bin/env bash
# Is this branch slower than the one it is merged into, on a real device? For any CI, on a machine beside the board.
#
#   regression.sh SUITE [BASE]
#
# SUITE   a benchmarks.toml (docs/regression.md); BASE the branch or commit to compare with, origin/main without it.
#
# Models whose files differ from those of BASE are measured in turn with them; the others are held against saved
# results (baselines/BASELINE), where there are some. A model that names a baseline file itself keeps it.
#
# Reports go to $REPORTS, regression/ without it. $HISTORY is a file that each run adds to, if it is set: keep it outside
# the checkout, and set it on the main branch alone. $QAEDGE is the command, $BASELINE the name of the saved results (main).
# Exit status: 0 fine, 3 slower or a limit is not kept, 4 not decided, 1 or 2 an error.
set -uo pipefail

suite=${1:?usage: regression.sh SUITE [BASE]}
read -r -a qaedge <<<"${QAEDGE:-qaedge}"
reports=${REPORTS:-regression}
baseline=${BASELINE:-main}

flags=(--base "${2:-origin/main}" --check --wait 30min --junit "$reports/suite.xml" --markdown "$reports/suite.md")
[[ -d $(dirname "$suite")/baselines/$baseline ]] && flags+=(--against "$baseline")
[[ -n ${HISTORY:-} ]] && flags+=(--history "$HISTORY")
[[ -n ${GITHUB_ACTIONS:-} ]] && flags+=(--github)
"${qaedge[@]}" bench --suite "$suite" "${flags[@]}"
status=$?
[[ -n ${HISTORY:-} && -e ${HISTORY:-} ]] && "${qaedge[@]}" history "$HISTORY"
exit "$status"
