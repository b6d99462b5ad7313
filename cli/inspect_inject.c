/* SPDX-License-Identifier: MIT */
/* `vitrine inject`: brings an exception, an interrupt or an NMI into a vCPU; see vitrine_vcpu_inject. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/inspect.h"

#define VECTOR_NMI 2u

static const char usage[] = "usage: vitrine inject [--vcpu N] --exception VECTOR [--code N] [--address N] [--json] VM\n"
                            "       vitrine inject [--vcpu N] --interrupt VECTOR|--nmi [--json] VM\n\n"
                            "An exception comes before the next instruction of vCPU N (0), with its error code, and with the address that CR2 gets of a\n"
                            "page fault (14), DR6 of a debug exception (1). An interrupt comes when the guest takes interrupts next; no interrupt\n"
                            "controller knows of it. A guest that does not expect them may well crash.\n";

struct wish {
    bool is_json, has_kind;
    uint32_t vcpu;
    struct vitrine_injection what;
};

/* Zero, or a status after a message. */
static int parse_option(int c, struct wish *w, char **argv)
{
    uint64_t number = 0;
    if (c == 'v')
        return inspect_vcpu("inject", optarg, &w->vcpu);
    if (c == ':' || c == '?')
        return inspect_bad_option("inject", c, argv[optind - 1]);
    if (optarg && !inspect_number(optarg, false, &number))
        return cli_error(CLI_USAGE, "inject", "'%s' is not a number", optarg);
    if (c != 'a' && number > UINT32_MAX)
        return cli_error(CLI_USAGE, "inject", "'%s' is too large", optarg);
    if (strchr("ein", c) && w->has_kind)
        return cli_error(CLI_USAGE, "inject", "only one of --exception, --interrupt and --nmi");
    w->has_kind |= strchr("ein", c) != NULL;
    if (c == 'j')
        w->is_json = true;
    else if (c == 'c')
        w->what.has_code = 1, w->what.code = (uint32_t)number;
    else if (c == 'a')
        w->what.has_address = 1, w->what.address = number;
    else
        w->what.is_interrupt = c != 'e', w->what.vector = c == 'n' ? VECTOR_NMI : (uint32_t)number;
    return CLI_DONE;
}

static int inject(struct vitrine_vm *vm, const struct wish *w)
{
    if (vitrine_vcpu_inject(vm, w->vcpu, &w->what) == 0)
        return w->is_json ? inspect_print_json("inject", json_object()) : CLI_DONE;
    if (errno == EINVAL)
        return cli_error(CLI_FAILED, "inject", "%" PRIu32 " is no vector of an %s", w->what.vector,
                         w->what.is_interrupt ? "interrupt: from 16 to 255" : "exception: below 32, not 2");
    if (errno == EBUSY)
        return cli_error(CLI_FAILED, "inject", "another one is on its way already");
    return inspect_failed("inject", "inject");
}

int inject_main(int argc, char **argv)
{
    static const struct option options[] = { { "vcpu", required_argument, NULL, 'v' },
                                             { "exception", required_argument, NULL, 'e' },
                                             { "interrupt", required_argument, NULL, 'i' },
                                             { "nmi", no_argument, NULL, 'n' },
                                             { "code", required_argument, NULL, 'c' },
                                             { "address", required_argument, NULL, 'a' },
                                             { "json", no_argument, NULL, 'j' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    struct wish w = { .vcpu = 0 };
    int status = CLI_DONE;
    optind = 1;
    opterr = 0;
    for (int c; !status && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'h')
            return fputs(usage, stdout) < 0 ? CLI_FAILED : CLI_DONE;
        status = parse_option(c, &w, argv);
    }
    if (status)
        return status;
    if (!w.has_kind)
        return cli_error(CLI_USAGE, "inject", "what? --exception VECTOR, --interrupt VECTOR or --nmi");
    if (w.what.is_interrupt && (w.what.has_code || w.what.has_address))
        return cli_error(CLI_USAGE, "inject", "--code and --address are for exceptions");
    if (argc - optind != 1)
        return cli_error(CLI_USAGE, "inject", argc == optind ? "which virtual machine?" : "more than one virtual machine");
    struct vitrine_vm *vm = inspect_open("inject", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    status = inject(vm, &w);
    vitrine_vm_close(vm);
    return status;
}
