#!/usr/bin/env bash
# Prints the next few lines of access.log and remembers how far it came; starts over at the end.

set -eu

log=$SPOOLBEAT_JOB_DIR/access.log
position_file=$SPOOLBEAT_STATE_DIR/position

position=0
if [[ -e $position_file ]]; then
    read -r position <"$position_file" || true
    if ! [[ $position =~ ^(0|[1-9][0-9]{0,8})$ ]]; then
        echo "position '$position' in $position_file is not a line number; starting over" >&2
        position=0
    fi
fi

mapfile -t -s "$position" -n "$LINES_PER_RUN" lines <"$log"
if ((${#lines[@]} == 0)); then  # at the end, or the log has become shorter
    position=0
    mapfile -t -n "$LINES_PER_RUN" lines <"$log"
fi
((${#lines[@]} == 0)) && exit 0

printf '%s\n' "${lines[@]}"

# After printing: killed in between, the next run prints these lines again instead of losing them.
echo $((position + ${#lines[@]})) >"$position_file.new"
mv "$position_file.new" "$position_file"
