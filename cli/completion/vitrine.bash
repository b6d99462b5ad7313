# SPDX-License-Identifier: MIT
# Completion of vitrine for bash. The program knows what could come next; where it says nothing, files are offered.
_vitrine() {
    local i
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    for i in "${!COMPREPLY[@]}"; do
        printf -v "COMPREPLY[$i]" %q "${COMPREPLY[i]}"
    done
}
complete -o bashdefault -o default -F _vitrine vitrine
