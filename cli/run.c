/* SPDX-License-Identifier: MIT */
/*
 * `vitrine run`, and this program under another name: becomes another program that finds vitrine behind /dev/kvm, by way of LD_PRELOAD. Knows about the
 * loader's environment and about programs that it would not work for; what the preloaded library does is src/transport/preload.c.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vitrine/vitrine.h"

#define RUN_LIBRARY "libvitrine-preload.so"

/* As shells have it; what is wrong with the call itself is CLI_USAGE or CLI_FAILED. */
enum { RUN_CANNOT = 126, RUN_NOT_FOUND = 127 };

static const char run_usage[] = "usage: vitrine run [OPTIONS] [--] COMMAND [ARGUMENTS]\n\n"
                                "Runs COMMAND, a KVM client such as QEMU, with vitrine in the place of /dev/kvm.\n\n"
                                "  --engine NAME    soft, or soft,step: one instruction at a time, slow, to compare with (default soft)\n"
                                "  --name NAME      what vitrine's messages call the machine\n"
                                "  --log LEVEL      messages of vitrine on standard error: error, warn, info, debug\n"
                                "  --no-children    programs that COMMAND starts get the host's /dev/kvm\n"
                                "\nThe exit status is the command's, or 127 if it is not there and 126 if it cannot be run.\n";

/* The library next to this program (a build folder), where it is installed seen from this program, or where it was meant to be installed. */
static bool run_find_library(char path[PATH_MAX])
{
    char exe[PATH_MAX / 2];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

    if (n > 0) {
        exe[n] = '\0';
        *strrchr(exe, '/') = '\0';
        snprintf(path, PATH_MAX, "%s/" RUN_LIBRARY, exe);
        if (access(path, R_OK) == 0)
            return true;
        snprintf(path, PATH_MAX, "%s/../%s/" RUN_LIBRARY, exe, VITRINE_LIBDIR_BELOW);
        if (access(path, R_OK) == 0)
            return true;
    }
    snprintf(path, PATH_MAX, "%s/" RUN_LIBRARY, VITRINE_LIBDIR);
    return access(path, R_OK) == 0;
}

/* The file that execvp would run, or NULL; errno is ENOENT or what kept it from being found. In the PATH, `except` is passed over. */
static const char *run_find_command(const char *name, const struct stat *except, char path[PATH_MAX])
{
    const char *list = getenv("PATH");
    int error = ENOENT;

    if (strchr(name, '/')) {
        snprintf(path, PATH_MAX, "%s", name);
        return access(path, X_OK) == 0 ? path : NULL;
    }
    for (list = list ? list : "/bin:/usr/bin"; *name; list++) {
        size_t n = strcspn(list, ":");
        struct stat st;

        snprintf(path, PATH_MAX, "%.*s%s%s", (int)n, list, n ? "/" : "", name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && !(except && st.st_dev == except->st_dev && st.st_ino == except->st_ino)) {
            if (access(path, X_OK) == 0)
                return path;
            error = EACCES;
        }
        list += n;
        if (!*list)
            break;
    }
    errno = error;
    return NULL;
}

/* The interpreter that an ELF program asks for: true and "" if none. */
static bool run_read_interpreter(int fd, const Elf64_Ehdr *header, char interpreter[PATH_MAX])
{
    interpreter[0] = '\0';
    for (unsigned i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr p;

        if (pread(fd, &p, sizeof(p), (off_t)(header->e_phoff + (uint64_t)i * header->e_phentsize)) != sizeof(p))
            return false;
        if (p.p_type != PT_INTERP)
            continue;
        if (p.p_filesz == 0 || p.p_filesz >= PATH_MAX || pread(fd, interpreter, p.p_filesz, (off_t)p.p_offset) != (ssize_t)p.p_filesz)
            return false;
        interpreter[p.p_filesz] = '\0';
    }
    return true;
}

/* True if running the file changes what this process may do: the loader then preloads nothing. */
static bool run_is_privileged(int fd)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return false;
    if ((st.st_mode & S_ISUID) && geteuid() != st.st_uid)
        return true;
    if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && getegid() != st.st_gid)
        return true;
    return geteuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0;
}

/* Why a program would run without us: NULL if it would not, or if that is for execve to say. */
static const char *run_refusal_of(const char *path, char script[PATH_MAX])
{
    union {
        Elf64_Ehdr elf;
        char text[256];
    } head = { .text = { 0 } };
    char interpreter[PATH_MAX];
    const char *why = NULL, *base;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    script[0] = '\0';
    if (fd < 0)
        return NULL;
    ssize_t n = read(fd, &head, sizeof(head) - 1);
    if (n > 2 && memcmp(head.text, "#!", 2) == 0) {
        char *begin = head.text + 2 + strspn(head.text + 2, " \t");
        begin[strcspn(begin, " \t\n")] = '\0';
        snprintf(script, PATH_MAX, "%s", begin);
    } else if (n < (ssize_t)sizeof(head.elf) || memcmp(head.elf.e_ident, ELFMAG, SELFMAG) != 0) {
        why = NULL;
    } else if (head.elf.e_ident[EI_CLASS] != ELFCLASS64 || head.elf.e_machine != EM_X86_64) {
        why = "is not a program for x86-64; this is not supported";
    } else if (run_is_privileged(fd)) {
        why = "is set-user-ID, set-group-ID or has capabilities: the loader does not let vitrine in";
    } else if (run_read_interpreter(fd, &head.elf, interpreter)) {
        base = strrchr(interpreter, '/');
        if (!*interpreter)
            why = "is statically linked; this is not supported yet";
        else if (strncmp(base ? base + 1 : interpreter, "ld-linux-", 9) != 0)
            why = "is not linked with glibc; this is not supported yet";
    }
    close(fd);
    return why;
}

static int run_check(const char *path)
{
    char script[PATH_MAX], next[PATH_MAX];

    snprintf(next, sizeof(next), "%s", path);
    for (unsigned depth = 0; depth < 4; depth++) { /* a script's interpreter may be a script */
        const char *why = run_refusal_of(next, script);
        if (why) {
            cli_error(CLI_FAILED, "run", "%s %s", next, why);
            return RUN_CANNOT;
        }
        if (!*script)
            break;
        snprintf(next, sizeof(next), "%s", script);
    }
    return 0;
}

/* LD_PRELOAD's separators cannot be quoted. A command below another `vitrine run` has the library there already. */
static int run_set_environment(const char *library)
{
    const char *before = getenv("LD_PRELOAD");
    size_t n = strlen(library);
    char *list;
    int r;

    if (before && strncmp(before, library, n) == 0 && (!before[n] || strchr(": ", before[n])))
        return CLI_DONE;
    if (strpbrk(library, ": "))
        return cli_error(CLI_FAILED, "run", "the loader cannot preload '%s': its path has a colon or a space", library);
    if (asprintf(&list, "%s%s%s", library, before && *before ? ":" : "", before ? before : "") < 0)
        return cli_error(CLI_FAILED, "run", "%s", strerror(ENOMEM));
    r = setenv("LD_PRELOAD", list, 1);
    free(list);
    return r ? cli_error(CLI_FAILED, "run", "cannot set LD_PRELOAD: %s", strerror(errno)) : CLI_DONE;
}

static bool run_is_level(const char *level)
{
    return !strcmp(level, "error") || !strcmp(level, "warn") || !strcmp(level, "info") || !strcmp(level, "debug");
}

/* Options into the environment. CLI_DONE, or a status to end with; *n_options counts what precedes the command. */
static int run_options(int argc, char **argv, bool *is_help)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },      { "engine", required_argument, NULL, 'e' }, { "name", required_argument, NULL, 'n' },
        { "log", required_argument, NULL, 'l' }, { "no-children", no_argument, NULL, 'c' },  { 0 },
    };
    int c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "+:h", options, NULL)) >= 0) {
        if (c == 'h') {
            *is_help = true;
            return CLI_DONE;
        } else if (c == 'e' && vitrine_set_engine(optarg) == 0) {
            setenv("VITRINE_ENGINE", optarg, 1);
        } else if (c == 'e') {
            return cli_error(CLI_USAGE, "run", "--engine takes 'soft' or 'soft,step', not '%s'", optarg);
        } else if (c == 'n') {
            setenv("VITRINE_NAME", optarg, 1);
        } else if (c == 'l' && run_is_level(optarg)) {
            setenv("VITRINE_LOG", optarg, 1);
        } else if (c == 'l') {
            return cli_error(CLI_USAGE, "run", "'%s' is not a log level: error, warn, info, debug", optarg);
        } else if (c == 'c') {
            setenv("VITRINE_NO_CHILDREN", "1", 1);
        } else if (c == ':') {
            return cli_error(CLI_USAGE, "run", "%s needs an argument", argv[optind - 1]);
        } else {
            return cli_error(CLI_USAGE, "run", "unknown option '%s'", argv[optind - 1]);
        }
    }
    return CLI_DONE;
}

/* Becomes the command. Returns the status to end with if it cannot. */
static int run_become(char **command, const struct stat *except)
{
    char library[PATH_MAX], path[PATH_MAX];
    int status;

    if (!run_find_library(library))
        return cli_error(CLI_FAILED, "run", "cannot find %s next to this program or in %s", RUN_LIBRARY, VITRINE_LIBDIR);
    if (!run_find_command(command[0], except, path)) {
        status = errno == ENOENT || errno == ENOTDIR ? RUN_NOT_FOUND : RUN_CANNOT;
        cli_error(CLI_FAILED, "run", "%s: %s", command[0], status == RUN_NOT_FOUND ? "command not found" : strerror(errno));
        return status;
    }
    status = run_check(path);
    if (status)
        return status;
    status = run_set_environment(library);
    if (status != CLI_DONE)
        return status;
    execv(path, command);
    status = errno == ENOENT ? RUN_NOT_FOUND : RUN_CANNOT;
    cli_error(CLI_FAILED, "run", "cannot run %s: %s", path, strerror(errno));
    return status;
}

int run_main(int argc, char **argv)
{
    bool is_help = false;
    int status;

    unsetenv("VITRINE_NO_CHILDREN");
    status = run_options(argc, argv, &is_help);
    if (status != CLI_DONE)
        return status;
    if (is_help) {
        fputs(run_usage, stdout);
        return CLI_DONE;
    }
    if (optind >= argc)
        return cli_error(CLI_USAGE, "run", "which command?");
    return run_become(argv + optind, NULL);
}

int run_wrapped(char *name, char **argv)
{
    struct stat self;

    if (stat("/proc/self/exe", &self) != 0)
        return cli_error(CLI_FAILED, "run", "/proc/self/exe: %s", strerror(errno));
    argv[0] = name;
    return run_become(argv, &self);
}
