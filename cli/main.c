/* SPDX-License-Identifier: MIT */
/*
 * The `vitrine` command: finds the command in a table and runs it. No logic of its own. Called by another name, as by a link, it runs the program of that name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#ifndef VITRINE_VERSION
#define VITRINE_VERSION "0.1.0"
#endif

static int help_main(int argc, char **argv);

static int version_main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return cli_error(CLI_USAGE, "version", "unexpected argument '%s'", argv[1]);
    printf("vitrine %s\n", VITRINE_VERSION);
    return CLI_DONE;
}

const struct cli_command cli_commands[] = {
    { "attach", "connect a virtual machine to a tool that looks into it", attach_main },
    { "boot", "start a Linux kernel in a virtual machine on this terminal", boot_main },
    { "complete", "print what could come next on a command line, for shells", complete_main },
    { "detach", "end what attach began", detach_main },
    { "doctor", "say what this machine offers and which engine vitrine uses", doctor_main },
    { "help", "say what a command does: vitrine help [COMMAND]", help_main },
    { "info", "show what a virtual machine consists of", info_main },
    { "inject", "bring an exception or interrupt into a virtual machine's CPU", inject_main },
    { "list", "show the virtual machines that run", list_main },
    { "mem", "read, write, search, save or map the memory of a virtual machine", mem_main },
    { "pause", "stop a virtual machine's CPUs, or one", pause_main },
    { "regs", "show or set the registers of a virtual machine's CPUs", regs_main },
    { "resume", "let a paused virtual machine go on", resume_main },
    { "run", "run a KVM client such as QEMU with vitrine in the place of /dev/kvm", run_main },
    { "step", "execute single instructions of a virtual machine's CPU", step_main },
    { "trace", "print what a virtual machine's CPUs do: registers written, memory touched, system calls", trace_main },
    { "translate", "translate an address by a CPU's page tables", translate_main },
    { "version", "print the version", version_main },
    { NULL, NULL, NULL },
};

int cli_error(enum cli_status status, const char *command, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "vitrine%s%s: ", command ? " " : "", command ? command : "");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    if (status == CLI_USAGE)
        fprintf(stderr, "Try 'vitrine help%s%s'.\n", command ? " " : "", command ? command : "");
    return status;
}

const struct cli_command *cli_find(const char *name)
{
    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static void help_print(FILE *out)
{
    fputs("usage: vitrine COMMAND [ARGUMENTS]\n\ncommands:\n", out);
    for (const struct cli_command *c = cli_commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->help);
}

static int help_main(int argc, char **argv)
{
    char flag[] = "--help", *args[] = { NULL, flag, NULL };
    const struct cli_command *c;

    if (argc < 2) {
        help_print(stdout);
        return CLI_DONE;
    }
    c = cli_find(argv[1]);
    if (!c)
        return cli_error(CLI_USAGE, NULL, "there is no command '%s'", argv[1]);
    if (c->run == help_main || c->run == version_main) {
        printf("vitrine %s: %s\n", c->name, c->help);
        return CLI_DONE;
    }
    args[0] = argv[1];
    return c->run(2, args);
}

/* A descriptor that the caller closed must not become some file of ours; writes to these stand-ins fail, as they should. */
static void cli_fill_standard_fds(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 2 ? O_WRONLY : O_RDONLY) != fd)
            _exit(CLI_FAILED);
}

/* The program that a link to us stands for: vitrine-NAME or NAME for NAME; NULL if we are called by our own name. */
static char *cli_wrapped_name(char *called)
{
    char *slash = called ? strrchr(called, '/') : NULL, *base = slash ? slash + 1 : called;

    if (!base || !*base || strcmp(base, "vitrine") == 0)
        return NULL;
    return strncmp(base, "vitrine-", 8) == 0 && base[8] ? base + 8 : base;
}

int main(int argc, char **argv)
{
    const struct cli_command *c;
    char *wrapped = cli_wrapped_name(argv[0]);
    int status;

    cli_fill_standard_fds();
    if (wrapped)
        return run_wrapped(wrapped, argv);
    if (argc < 2) {
        help_print(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        argv[1] = (char *)"help";
    else if (strcmp(argv[1], "--version") == 0)
        argv[1] = (char *)"version";
    c = cli_find(argv[1]);
    if (!c)
        return cli_error(CLI_USAGE, NULL, "there is no command '%s'", argv[1]);
    status = c->run(argc - 1, argv + 1);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_DONE)
        return cli_error(CLI_FAILED, argv[1], "cannot write to standard output: %s", strerror(errno));
    return status;
}
