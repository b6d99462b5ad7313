#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Rules of the tree that a compiler does not know, one TAP line each. usage: check.py SOURCE BUILD [CHECK...]

The rules and their reasons are in docs/style.md and docs/architecture.md; who may include whom is in src/LAYERS.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

SOURCE, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
C_ENDINGS = (".c", ".h", ".S")
CODE_FOLDERS = ("src/", "vmm/", "cli/", "tests/", "bench/", "examples/", "guests/", "include/")


class Skip(Exception):
    pass


def tree():
    listing = subprocess.run(["git", "-C", SOURCE, "ls-files", "-co", "--exclude-standard"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if listing.returncode == 0:
        names = listing.stdout.splitlines()
    else:
        names = [os.path.relpath(os.path.join(folder, f), SOURCE) for folder, _, files in os.walk(SOURCE) for f in files]
        names = [n for n in names if not n.startswith(("build", ".git/"))]
    return sorted(n for n in names if os.path.isfile(os.path.join(SOURCE, n)))


def text(name):
    with open(os.path.join(SOURCE, name), encoding="utf-8", errors="replace") as f:
        return f.read()


def code_files(endings=C_ENDINGS):
    return [n for n in tree() if n.startswith(CODE_FOLDERS) and n.endswith(endings)]


def layers():
    table = {}
    for line in text("src/LAYERS").splitlines():
        if line.strip() and not line.startswith("#"):
            name, folder, *may = line.split()
            table[name] = (folder, set(may) - {"-"})
    return table


def includes():
    """Each quoted include of a layer's file names a header of a layer that src/LAYERS allows."""
    table, wrong = layers(), []
    own_prefix = {name: name + "/" for name in table}
    for name, (folder, may) in table.items():
        for file in code_files():
            if os.path.dirname(file) != folder:
                continue
            for line, content in enumerate(text(file).splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+"([^"]+)"', content)
                if not found or "/" not in found[1]:
                    continue
                target = [layer for layer, prefix in own_prefix.items() if found[1].startswith(prefix)]
                if not target:
                    if not found[1].startswith("vitrine/") or name not in ("lib", "cli", "front/control", "front/kvmi", "front/memflow", "transport"):  # whose structs travel as they are
                        wrong.append("%s:%d: '%s' belongs to no layer" % (file, line, found[1]))
                elif target[0] != name and target[0] not in may:
                    wrong.append("%s:%d: %s may not include %s" % (file, line, name, found[1]))
    return wrong


def every_folder_has_a_layer():
    folders = {folder for folder, _ in layers().values()}
    return ["%s: its folder is not in src/LAYERS" % n for n in code_files((".c", ".S")) if n.startswith(("src/", "vmm/", "cli/")) and os.path.dirname(n) not in folders]


def archive(layer):
    return os.path.join(BUILD, "libvitrine_%s.a" % {"engine/soft": "soft"}.get(layer, layer.replace("/", "_")))


def links():
    """Each layer links against only what it may include: finds the stray extern too."""
    wrong, seen = [], 0
    options = subprocess.run(["meson", "introspect", "--buildoptions", BUILD], stdout=subprocess.PIPE, text=True).stdout
    if re.search(r'"name": "b_sanitize", "value": "(?!none)', options):
        raise Skip("sanitizers' symbols would be missing")
    for name, (_, may) in layers().items():
        if not os.path.exists(archive(name)):
            continue
        seen += 1
        # What a layer may include may itself need the layers below.
        below, more = set(), set(may)
        while more:
            layer = more.pop()
            if layer not in below:
                below.add(layer)
                more |= layers()[layer][1]
        libraries = ["-lZydis"] if name == "x86" or "x86" in below else []
        libraries += ["-lnettle"] if name == "transport" or "transport" in below else []
        libraries += ["-lslirp"] if name == "vmm" or "vmm" in below else []
        with tempfile.TemporaryDirectory() as folder:
            command = ["cc", "-shared", "-o", folder + "/layer.so", "-Wl,--no-undefined", "-Wl,--whole-archive", archive(name), "-Wl,--no-whole-archive", "-Wl,--start-group"]
            command += [archive(b) for b in below if os.path.exists(archive(b))] + ["-Wl,--end-group"] + libraries + ["-lpthread"]
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            wrong += sorted({"%s: %s" % (name, m) for m in re.findall(r"undefined reference to [`']([^']+)'", run.stdout)}) or [name + ": " + run.stdout.strip()]
    if not seen:
        raise Skip("nothing is built in " + BUILD)
    return wrong


def licence_lines():
    wrong = []
    for name in tree():
        is_script = not name.endswith(C_ENDINGS) and text(name).startswith("#!")
        if name.endswith(C_ENDINGS + (".py", ".map")) or is_script or os.path.basename(name) in ("meson.build", "Makefile", "LAYERS"):
            if "SPDX-License-Identifier: MIT" not in "\n".join(text(name).splitlines()[:3]):
                wrong.append("%s: no SPDX line at its head" % name)
    return wrong


def head_comments():
    """The line after the licence begins a comment that says what the file is."""
    wrong = []
    for name in code_files():
        lines = text(name).splitlines()
        if len(lines) < 2 or not lines[1].startswith("/*"):
            wrong.append("%s: no head comment" % name)
    return wrong


def formatting():
    files = [os.path.join(SOURCE, n) for n in code_files((".c", ".h"))]
    try:
        run = subprocess.run(["clang-format", "--dry-run"] + files, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        raise Skip("clang-format is not installed")
    return sorted({"%s: run make format" % os.path.relpath(m, SOURCE) for m in re.findall(r"^(/[^:\s]+):\d+:\d+: \w+:", run.stdout, re.M)})


def file_sizes():
    wrong = []
    for name in code_files():
        lines = text(name).splitlines()
        head = "\n".join(lines[:25]).lower()
        if len(lines) > 1000 and "only tables" not in head:
            wrong.append("%s: %d lines" % (name, len(lines)))
        elif len(lines) > 600 and "one thing" not in head and "only tables" not in head:
            wrong.append("%s: %d lines and its head does not say why it is one thing" % (name, len(lines)))
    return wrong


def words():
    """What makes sense only on the machine where it was written, and notes to oneself."""
    banned = [r"/wor" r"k/", r"/roo" r"t/", r"/tm" r"p/[A-Z]\b", r"\bTO" r"DO\b", r"\bFIX" r"ME\b", r"\bXX" r"X\b", r"\bhelper [A-H]\b", r"\bthe le" r"ad\b", r"\bthis sess" r"ion\b"]
    wrong = []
    for name in tree():
        for line, content in enumerate(text(name).splitlines(), 1):
            for word in banned:
                if re.search(word, content):
                    wrong.append("%s:%d: %s" % (name, line, re.search(word, content)[0]))
    return wrong


def engine_calls():
    """The guest's vector registers are live in the engine and in what it calls then: no libc function that may use them, and none in its own code (src/engine/soft/soft_priv.h)."""
    libraries = [archive("engine/soft"), archive("light_core"), archive("light_introspect")]
    if not os.path.exists(libraries[0]):
        raise Skip("the engine is not built in " + BUILD)
    undefined = subprocess.run(["nm", "-A", "-u"] + libraries, stdout=subprocess.PIPE, text=True, check=True).stdout
    wrong = ["%s calls %s" % m for m in re.findall(r"([^:/]+\.o):\s+U (?:__)?((?:mem(?:cpy|move|set|cmp|chr|mem)|bcmp|str[a-z]+|[a-z]*printf|wmem\w+)(?:_chk)?)$", undefined, re.M)]
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn"] + libraries, stdout=subprocess.PIPE, text=True, check=True).stdout
    for part in re.split(r"\n(?=\S+:\s+file format)", listing):
        file = part.strip().split(":")[0]
        # Assembler files handle the vector state on purpose.
        if re.search(r"%[xyz]mm\d", part) and ".c." in file:
            wrong.append("%s uses vector registers" % file)
    return wrong


# The C library's calls that set signal actions: the library stands in for them (src/transport/sigaction.c).
STOOD_IN_FOR = set("sigaction __sigaction signal bsd_signal ssignal sysv_signal __sysv_signal sigset sigignore siginterrupt".split())


def exported():
    """The shared library shows vitrine_*, what it stands in for, and nothing else."""
    library = os.path.join(BUILD, "libvitrine.so")
    if not os.path.exists(library):
        raise Skip("libvitrine.so is not built")
    names = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", library], stdout=subprocess.PIPE, text=True, check=True).stdout
    shown = {line.split()[0] for line in names.splitlines()}
    wrong = ["libvitrine.so exports %s" % name for name in sorted(shown - STOOD_IN_FOR) if not name.startswith("vitrine_")]
    return wrong + ["libvitrine.so does not export %s" % name for name in sorted(STOOD_IN_FOR - shown)]


def public_headers():
    """Each public header is complete in itself, and strict C and C++ compilers take it without a warning."""
    wrong = []
    compilers = [("cc", "c", "-std=c99"), ("cc", "c", "-std=c11")] + [(c, "c++", "-std=c++11") for c in ("g++", "clang++") if shutil.which(c)]
    for header in [n for n in tree() if n.startswith("include/") and n.endswith(".h")]:
        for compiler, language, standard in compilers:
            command = [compiler, "-x", language, standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "-I" + os.path.join(SOURCE, "include"), "-"]
            source = '#include "%s"\n#include "%s"\nint main(void) { return 0; }\n' % ((header[len("include/"):],) * 2)
            run = subprocess.run(command, input=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if run.returncode:
                wrong.append("%s as %s: %s" % (header, standard, (run.stdout.strip().splitlines() or ["?"])[-1]))
    if len(compilers) == 2 and not wrong:
        raise Skip("C is fine; there is no C++ compiler")
    return wrong


def abi_page():
    """docs/abi is what the fronts' tables say."""
    program = os.path.join(BUILD, "abi_table")
    if not os.path.exists(program):
        raise Skip("abi_table is not built")
    wrong = []
    for page, arguments in (("docs/abi/kvm.md", []), ("docs/abi/kvmi.md", ["kvmi"]), ("docs/abi/mshv.md", ["mshv"])):
        printed = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout
        if not os.path.exists(os.path.join(SOURCE, page)) or text(page) != printed:
            wrong.append("%s is not what the front answers: run make docs" % page)
    return wrong


SHELLS = {
    "bash": (["--norc"], "source vitrine.bash; COMP_WORDS=(vitrine %s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _vitrine; printf '%%s\\n' \"${COMPREPLY[@]}\""),
    "zsh": (["-f"], "compadd() { shift; print -l -- $@ }; _files() { }; words=(vitrine %s); CURRENT=$#words; source ./_vitrine"),
    "fish": (["--no-config"], "source vitrine.fish; complete -C 'vitrine %s'"),
}


def completion():
    """What shells offer are the commands and options of the help texts: each shell that is installed is asked."""
    program = os.path.join(BUILD, "vitrine")
    if not os.path.exists(program):
        raise Skip("vitrine is not built")

    def said(*args):
        return subprocess.run([program, *args], stdout=subprocess.PIPE, text=True).stdout

    commands = re.findall(r"(?m)^  ([a-z]+)(?= )", said("help"))
    wrong = [] if said("complete", "").split() == commands else ["the commands are not those of vitrine help"]
    options = {c: set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said("help", c))) for c in commands if c != "complete"}
    wrong += ["options of " + c for c in options if set(said("complete", c, "--").split()) != options[c]]
    wrong += ["%s: %s" % (words, said("complete", *words)) for words, reply in ((["mem", "re"], "read\n"), (["mem", "dump", "--format", ""], "raw\nelf\nlime\n"), (["help", "tran"], "translate\n"),
                                                                              (["run", "--", "--"], ""), (["boot", "--initrd", ""], "")) if said("complete", *words) != reply]
    environment = {**os.environ, "PATH": BUILD + ":" + os.environ["PATH"]}
    for shell, (flags, script) in SHELLS.items():
        if not shutil.which(shell):
            continue
        for words, reply in (("tran", {"translate"}), ("regs --", options["regs"]), ("mem dump --format l", {"lime"})):
            run = subprocess.run([shell, *flags, "-c", script % words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=os.path.join(SOURCE, "cli/completion"), env=environment)
            if set(run.stdout.split()) != reply:
                wrong.append("%s: vitrine %s: %s" % (shell, words, run.stdout.strip()))
    return wrong


def manual():
    """docs/man/vitrine.1 says of every command each option that its help names, and no other."""
    program = os.path.join(BUILD, "vitrine")
    if not os.path.exists(program):
        raise Skip("vitrine is not built")

    def help_of(*args):
        return subprocess.run([program, "help", *args], stdout=subprocess.PIPE, text=True).stdout

    commands = set(re.findall(r"(?m)^  ([a-z]+)(?= )", help_of()))
    option = r"(?<![\w-])--[a-z][a-z-]*"
    page = text("docs/man/vitrine.1").replace("\\-", "-")
    section = page[page.index(".SH COMMANDS"):page.index(".SH OPTIONS OF BOOT")]
    there = set(re.findall(option, page))
    about = {}  # by command: its paragraph, and its own section if it has one
    for words, paragraph in re.findall(r"(?ms)^\.TP\n\.BR? ([^\n]*)\n(.*?)(?=^\.TP|^\.PP|\Z)", section):
        for command in re.findall("[a-z]+", words):
            about[command] = about.get(command, "") + paragraph
    for command, options in re.findall(r"(?ms)^\.SH OPTIONS OF (\w+)\n(.*?)(?=^\.SH|\Z)", page):
        about[command.lower()] += options
    wrong = ["docs/man/vitrine.1 lacks %s" % n for n in sorted(commands - set(about))] + ["docs/man/vitrine.1: there is no %s" % n for n in sorted(set(about) - commands)]
    everywhere = {"--json"}
    for command in sorted(commands & set(about)):
        told, mentioned = set(re.findall(option, help_of(command))) - everywhere, set(re.findall(option, about[command]))
        wrong += ["docs/man/vitrine.1: %s lacks %s" % (command, n) for n in sorted(told - mentioned)]
        there -= told
    return wrong + ["docs/man/vitrine.1: there is no %s" % n for n in sorted(there - everywhere)]


CHECKS = [includes, every_folder_has_a_layer, links, licence_lines, head_comments, formatting, file_sizes, words, engine_calls, exported, public_headers, abi_page, completion, manual]


def main():
    failed = False
    for check in CHECKS:
        if sys.argv[3:] and check.__name__ not in sys.argv[3:]:
            continue
        try:
            wrong = check()
        except Skip as reason:
            print("ok - %s # SKIP %s" % (check.__name__, reason))
            continue
        for line in wrong[:20]:
            print("# " + line)
        if len(wrong) > 20:
            print("# and %d more" % (len(wrong) - 20))
        print("%s - %s" % ("not ok" if wrong else "ok", check.__name__))
        failed |= bool(wrong)
    sys.exit(failed)


main()
