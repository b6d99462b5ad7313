# SPDX-License-Identifier: MIT
# Completion of vitrine for fish. The program knows what could come next; where it says nothing, files are offered.
function __vitrine_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l found ($words[1] complete $words[2..-1] "$last" 2>/dev/null)
    if set -q found[1]
        string join \n -- $found
    else
        __fish_complete_path "$last"
    end
end
complete -c vitrine -f -k -a '(__vitrine_complete)'
