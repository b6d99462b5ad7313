/* SPDX-License-Identifier: MIT */
/*
 * `vitrine run`, and this program under another name: becomes another program that finds vitrine behind /dev/kvm, by way of LD_PRELOAD. Knows about the
 * loader's environment and about programs that it would not work for; what the preloaded library does is src/transport/preload.c.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/attach.h"
#include "cli/cli.h"
#include "transport/program.h"
#include "vitrine/vitrine.h"

#define RUN_LIBRARY PROGRAM_LIBRARY

/* As shells have it; what is wrong with the call itself is CLI_USAGE or CLI_FAILED. */
enum { RUN_CANNOT = 126, RUN_NOT_FOUND = 127 };

static const char run_usage[] = "usage: vitrine run [OPTIONS] [--] COMMAND [ARGUMENTS]\n\n"
                                "Runs COMMAND, a KVM client such as QEMU, with vitrine in the place of /dev/kvm.\n\n"
                                "  --engine NAME    soft, or soft,step: one instruction at a time, slow, to compare with (default soft)\n"
                                "  --name NAME      what vitrine's messages call the machine\n"
                                "  --log LEVEL      messages of vitrine on standard error: error, warn, info, debug\n"
                                "  --kvmi WHERE     connect to the KVMI tool that listens at WHERE, as soon as one does; may be given\n"
                                "                   several times\n"
                                "  --no-introspection\n"
                                "                   tools cannot look into its machines\n"
                                "  --no-share       guest memory that the command allocates stays private: tools can read and write\n"
                                "                   it, but not map it\n"
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
        { "help", no_argument, NULL, 'h' },       { "engine", required_argument, NULL, 'e' }, { "name", required_argument, NULL, 'n' },
        { "log", required_argument, NULL, 'l' },  { "no-children", no_argument, NULL, 'c' },  { "no-introspection", no_argument, NULL, 'i' },
        { "kvmi", required_argument, NULL, 'k' }, { "no-share", no_argument, NULL, 's' },     { 0 },
    };
    bool has_kvmi = false;
    int c, status;

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
        } else if (c == 'i') {
            setenv("VITRINE_NO_INTROSPECTION", "1", 1);
        } else if (c == 'k') {
            status = attach_environment("run", optarg, &has_kvmi);
            if (status != CLI_DONE)
                return status;
        } else if (c == 's') {
            setenv("VITRINE_NO_SHARE", "1", 1);
        } else if (c == ':') {
            return cli_error(CLI_USAGE, "run", "%s needs an argument", argv[optind - 1]);
        } else {
            return cli_error(CLI_USAGE, "run", "unknown option '%s'", argv[optind - 1]);
        }
    }
    return CLI_DONE;
}

/* Becomes the host of a program that makes system calls by itself. */
static int run_hosted(const struct program *program, const char *library, const char *path, char **command)
{
    char host[PATH_MAX];
    struct program_call call;
    void *room;

    if (program_find_host(library, host) != 0)
        return cli_error(CLI_FAILED, "run", "%s makes system calls by itself, and there is no %s beside %s", program->path, PROGRAM_HOST, library);
    room = malloc(program_call_bytes(program, path, command, environ));
    if (!room)
        return cli_error(CLI_FAILED, "run", "%s", strerror(ENOMEM));
    program_call_hosted(program, path, command, environ, room, &call);
    execve(host, call.argv, call.envp);
    cli_error(CLI_FAILED, "run", "cannot run %s: %s", host, strerror(errno));
    free(room);
    return RUN_CANNOT;
}

/* Becomes the command. Returns the status to end with if it cannot. */
static int run_become(char **command, const struct stat *except)
{
    char library[PATH_MAX], path[PATH_MAX];
    struct program program;
    int status;

    if (!run_find_library(library))
        return cli_error(CLI_FAILED, "run", "cannot find %s next to this program or in %s", RUN_LIBRARY, VITRINE_LIBDIR);
    if (!program_find(command[0], except, path)) {
        status = errno == ENOENT || errno == ENOTDIR ? RUN_NOT_FOUND : RUN_CANNOT;
        cli_error(CLI_FAILED, "run", "%s: %s", command[0], status == RUN_NOT_FOUND ? "command not found" : strerror(errno));
        return status;
    }
    program_examine(path, &program);
    if (program.kind == PROGRAM_REFUSED) {
        cli_error(CLI_FAILED, "run", "%s %s", program.path, program.why);
        return RUN_CANNOT;
    }
    if (program.kind == PROGRAM_HOSTED && getenv("VITRINE_NO_CHILDREN"))
        return run_hosted(&program, library, path, command); /* nothing to preload into */
    status = run_set_environment(library);
    if (status != CLI_DONE)
        return status;
    if (program.kind == PROGRAM_HOSTED)
        return run_hosted(&program, library, path, command);
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
        printf("%s%s", run_usage, attach_where_help);
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
