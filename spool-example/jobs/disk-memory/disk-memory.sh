#!/usr/bin/env bash
# Prints one JSON object for the memory and one for each mounted file system.
# Field names as in Metricbeat's system module; sizes in bytes.

set -u
export LC_ALL=C                 # bytes stay bytes, and df keeps its English heading

# REPLY = "$1" as a JSON string. Mount points may hold quotes, line ends and bytes that are no UTF-8.
json_string() {
    local text=$1 rest out='' char code tail=$'[\x80-\xbf]'
    rest=${text//[$'\xc2'-$'\xdf']$tail/x}
    rest=${rest//$'\xe0'[$'\xa0'-$'\xbf']$tail/x}
    rest=${rest//$'\xed'[$'\x80'-$'\x9f']$tail/x}
    rest=${rest//[$'\xe1'-$'\xec'$'\xee'$'\xef']$tail$tail/x}
    rest=${rest//$'\xf0'[$'\x90'-$'\xbf']$tail$tail/x}
    rest=${rest//[$'\xf1'-$'\xf3']$tail$tail$tail/x}
    rest=${rest//$'\xf4'[$'\x80'-$'\x8f']$tail$tail/x}
    if [[ $rest == *[$'\x80'-$'\xff']* ]]; then
        text=${text//[$'\x80'-$'\xff']/?}
    fi
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    if [[ $text == *[[:cntrl:]]* ]]; then
        while [[ -n $text ]]; do
            char=${text:0:1} text=${text:1}
            if [[ $char == [[:cntrl:]] ]]; then
                printf -v code '%d' "'$char"
                printf -v char '\\u%04x' "$code"
            fi
            out+=$char
        done
        text=$out
    fi
    REPLY="\"$text\""
}

# REPLY = $1 KiB as people read it, in GiB.
gib() {
    local tenths=$(($1 * 10 / 1048576))
    REPLY="$((tenths / 10)).$((tenths % 10))"
}

# REPLY = $1 of $2 as a fraction with four digits.
fraction() {
    local parts=0
    (($2 > 0)) && parts=$(($1 * 10000 / $2))
    printf -v REPLY '%d.%04d' $((parts / 10000)) $((parts % 10000))
}

memory() {
    local key value unit total=0 free=0 available='' swap_total=0 swap_free=0
    while read -r key value unit; do
        case $key in
            MemTotal:) total=$value ;;
            MemFree:) free=$value ;;
            MemAvailable:) available=$value ;;
            SwapTotal:) swap_total=$value ;;
            SwapFree:) swap_free=$value ;;
        esac
    done </proc/meminfo || return 1
    available=${available:-$free}   # kernels before 3.14 do not estimate it
    local used=$((total - available)) used_gib total_gib share
    gib "$used" && used_gib=$REPLY
    gib "$total" && total_gib=$REPLY
    fraction "$used" "$total" && share=$REPLY
    printf '{"message":"memory: %s of %s GiB used","event":{"kind":"metric"},' "$used_gib" "$total_gib"
    printf '"system":{"memory":{"total":%d,"free":%d,"actual":{"free":%d,"used":{"bytes":%d,"pct":%s}},' \
        $((total * 1024)) $((free * 1024)) $((available * 1024)) $((used * 1024)) "$share"
    printf '"swap":{"total":%d,"free":%d}}}}\n' $((swap_total * 1024)) $((swap_free * 1024))
}

file_systems() {
    local line device total used available mount text mount_json device_json used_gib total_gib share
    # Both names may hold blanks; between them stand three numbers and a percentage.
    local row='^(.*[^ ]) +([0-9]+) +([0-9]+) +([0-9]+) +([0-9]+%|-) (/.*)$'
    while IFS= read -r line; do
        [[ $line =~ $row ]] || continue
        device=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]} used=${BASH_REMATCH[3]}
        available=${BASH_REMATCH[4]} mount=${BASH_REMATCH[6]}
        ((total > 0)) || continue
        gib "$used" && used_gib=$REPLY
        gib "$total" && total_gib=$REPLY
        fraction "$used" $((used + available)) && share=$REPLY
        json_string "$mount: $used_gib of $total_gib GiB used" && text=$REPLY
        json_string "$mount" && mount_json=$REPLY
        json_string "$device" && device_json=$REPLY
        printf '{"message":%s,"event":{"kind":"metric"},' "$text"
        printf '"system":{"filesystem":{"mount_point":%s,"device_name":%s,' "$mount_json" "$device_json"
        printf '"total":%d,"available":%d,"used":{"bytes":%d,"pct":%s}}}}\n' \
            $((total * 1024)) $((available * 1024)) $((used * 1024)) "$share"
    done < <(df -kP)            # its complaints (a mount that we may not look at) stay on stderr
}

memory || exit 1
file_systems
