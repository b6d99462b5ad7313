/* SPDX-License-Identifier: MIT */
/*
 * `vitrine attach` and `detach`: tells a VM's process to which tools to connect. Also what `boot` and `run` do with their --kvmi.
 */
#include "cli/attach.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/inspect.h"
#include "lib/where.h"
#include "transport/kvmi_endpoint.h"
#include "transport/kvmi_where.h"

const char attach_where_help[] = "\nWHERE is unix:PATH, or vsock:PORT on this machine, or vsock:CID:PORT. Behind it may follow, each with a comma before:\n"
                                 "  key=KEY         the tool must show the SHA-1 of KEY\n"
                                 "  dialect=D       of the protocol: b libkvmi's, c the last one proposed for the kernel (v12), a the first\n"
                                 "                  (2017); auto (default) goes by what the tool says, and is b where that does not tell\n"
                                 "  allow=A+B+...   the tool may use these commands, and events written event:NAME, and nothing else\n"
                                 "  deny=A+B+...    the tool may use anything else; needs a dialect=, since commands have other names in others\n"
                                 "  guest=VM        the machine that the tool itself runs in, for dialect a's mappings: a name or pid; by default\n"
                                 "                  that of the process which listens at PATH, if it runs one\n"
                                 "A comma in PATH or KEY is written twice.\n";

/* CLI_DONE, or the status after a message. */
static int attach_check(const char *command, const char *where)
{
    struct kvmi_where parsed;
    const char *why = kvmi_where_parse(where, &parsed);
    return why ? cli_error(CLI_USAGE, command, "--kvmi %s: %s", where, why) : CLI_DONE;
}

int attach_environment(const char *command, const char *where, bool *has_some)
{
    const char *before = *has_some ? getenv(KVMI_ENVIRONMENT) : NULL;
    int status = attach_check(command, where);
    if (status != CLI_DONE)
        return status;
    char *absolute = where_absolute(where), *lines = NULL;
    if (!absolute || asprintf(&lines, "%s%s%s", before ? before : "", before ? "\n" : "", absolute) < 0 || setenv(KVMI_ENVIRONMENT, lines, 1))
        status = cli_error(CLI_FAILED, command, "%s", strerror(errno));
    free(absolute);
    free(lines);
    *has_some = true;
    return status;
}

/* ---- the commands ---- */

struct attach_options {
    const char *where, *which;
    bool is_all, is_json;
};

/* True: go on. Else *status is the exit status. */
static bool parse(int argc, char **argv, const char *usage, bool takes_all, struct attach_options *o, int *status)
{
    static const struct option options[] = { { "kvmi", required_argument, NULL, 'k' },
                                             { "all", no_argument, NULL, 'a' },
                                             { "json", no_argument, NULL, 'j' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    optind = 1;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'j') {
            o->is_json = true;
        } else if (c == 'k' && !o->where) {
            o->where = optarg;
        } else if (c == 'a' && takes_all) {
            o->is_all = true;
        } else if (c == 'h') {
            printf("%s%s", usage, attach_where_help);
            *status = CLI_DONE;
            return false;
        } else {
            *status = cli_error(CLI_USAGE, argv[0],
                                c == ':'   ? "option '%s' needs a value"
                                : c == 'k' ? "one --kvmi at a time"
                                           : "unknown option '%s'",
                                argv[optind - 1]);
            return false;
        }
    }
    if (argc - optind != 1)
        *status = argc == optind ? cli_error(CLI_USAGE, argv[0], "which virtual machine?")
                                 : cli_error(CLI_USAGE, argv[0], "unexpected argument '%s'", argv[optind + 1]);
    else if (!o->where == !o->is_all)
        *status = cli_error(CLI_USAGE, argv[0], takes_all ? "which tool? --kvmi WHERE or --all" : "which tool? --kvmi WHERE");
    else
        return o->which = argv[optind], true;
    return false;
}

static int change(char **argv, const struct attach_options *o, int (*call)(struct vitrine_vm *, const char *))
{
    struct vitrine_vm *vm = inspect_open(argv[0], o->which);
    if (!vm)
        return CLI_FAILED;
    int status = CLI_DONE;
    if (!call(vm, o->where))
        status = o->is_json ? inspect_print_json(argv[0], json_object()) : CLI_DONE;
    else if (errno == EEXIST)
        status = cli_error(CLI_FAILED, argv[0], "it is attached to %s already; 'vitrine info' shows how that stands", o->where);
    else if (errno == ENOENT)
        status = cli_error(CLI_FAILED, argv[0], "it is not attached to %s; 'vitrine info' shows to what it is", o->where);
    else if (errno == ENOSPC)
        status = cli_error(CLI_FAILED, argv[0], "it is attached to too many tools");
    else
        status = inspect_failed(argv[0], argv[0]);
    vitrine_vm_close(vm);
    return status;
}

int attach_main(int argc, char **argv)
{
    static const char usage[] = "usage: vitrine attach [--json] VM --kvmi WHERE\n\n"
                                "Connects a running virtual machine to a tool that speaks KVMI and listens at WHERE, as soon as one does, and again when it\n"
                                "has gone, until 'vitrine detach'. 'vitrine info' shows how it stands, and why a tool was not let in.\n";
    struct attach_options o = { 0 };
    int status = CLI_DONE;
    if (!parse(argc, argv, usage, false, &o, &status))
        return status;
    status = attach_check(argv[0], o.where);
    return status == CLI_DONE ? change(argv, &o, vitrine_vm_attach) : status;
}

int detach_main(int argc, char **argv)
{
    static const char usage[] = "usage: vitrine detach [--json] VM --kvmi WHERE|--all\n\n"
                                "Ends the connection to the tool at WHERE, or to all, and undoes what they had set. A tool that asked to be told is told\n"
                                "first and has ten seconds to tidy up.\n";
    struct attach_options o = { 0 };
    int status = CLI_DONE;
    return parse(argc, argv, usage, true, &o, &status) ? change(argv, &o, vitrine_vm_detach) : status;
}
