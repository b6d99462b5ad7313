/* SPDX-License-Identifier: MIT */
/*
 * `vitrine boot`: arguments to a struct vmm_config, the outcome to messages and the exit status. The VM itself is vmm/'s.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/attach.h"
#include "cli/cli.h"
#include "vitrine/vitrine.h"
#include "vmm/vmm.h"

static const char boot_help[] = "usage: vitrine boot KERNEL [OPTIONS]\n"
                                "\n"
                                "Starts the Linux kernel KERNEL (bzImage or ELF vmlinux) with its serial console on this terminal.\n"
                                "\n"
                                "  --initrd FILE       initial RAM disk\n"
                                "  --append TEXT       added to the kernel command line \"console=ttyS0 panic=-1\"\n"
                                "  --cpus N            number of CPUs, 1 to 64 (default 1)\n"
                                "  --mem SIZE          memory, with K, M, G or T behind the number; MiB without (default 512M)\n"
                                "  --disk FILE[,ro]    a virtio disk over a raw file or block device; may be given several times\n"
                                "  --net user|none     user: a virtio network card behind a NAT, the host's loopback at 10.0.2.2 (default none)\n"
                                "  --device PATH       use the KVM device PATH of this machine instead of vitrine's own engine\n"
                                "  --name NAME         what 'vitrine list' and the log call the machine\n"
                                "  --kvmi WHERE        connect to the KVMI tool that listens at WHERE, as soon as one does; may be given\n"
                                "                      several times\n"
                                "  --no-introspection  tools cannot look into the machine\n"
                                "  --no-share          its memory is private: tools can read and write it, but not map it\n"
                                "  --engine NAME       soft, or soft,step: one instruction at a time, slow, to compare with (default soft)\n"
                                "  --stats             at the end, print to standard error what the VM consisted of and what it did\n"
                                "  --marker TEXT       with --stats: when did the first console line with TEXT begin\n"
                                "\n"
                                "Ctrl-A x ends the virtual machine, Ctrl-A Ctrl-A sends one Ctrl-A.\n"
                                "Exit status: 0 the guest powered off, 1 failure, 2 wrong usage, 128 + N ended by signal N.\n";

enum boot_option {
    OPT_INITRD = 1,
    OPT_APPEND,
    OPT_CPUS,
    OPT_MEM,
    OPT_DISK,
    OPT_NET,
    OPT_DEVICE,
    OPT_ENGINE,
    OPT_NAME,
    OPT_NO_INTROSPECTION,
    OPT_NO_SHARE,
    OPT_KVMI,
    OPT_STATS,
    OPT_MARKER,
    OPT_HELP
};

/* clang-format off */
static const struct option boot_options[] = {
    { "initrd", required_argument, NULL, OPT_INITRD },
    { "append", required_argument, NULL, OPT_APPEND },
    { "cpus", required_argument, NULL, OPT_CPUS },
    { "mem", required_argument, NULL, OPT_MEM },
    { "disk", required_argument, NULL, OPT_DISK },
    { "net", required_argument, NULL, OPT_NET },
    { "device", required_argument, NULL, OPT_DEVICE },
    { "engine", required_argument, NULL, OPT_ENGINE },
    { "name", required_argument, NULL, OPT_NAME },
    { "no-introspection", no_argument, NULL, OPT_NO_INTROSPECTION },
    { "no-share", no_argument, NULL, OPT_NO_SHARE },
    { "kvmi", required_argument, NULL, OPT_KVMI },
    { "stats", no_argument, NULL, OPT_STATS },
    { "marker", required_argument, NULL, OPT_MARKER },
    { "help", no_argument, NULL, OPT_HELP },
    { NULL, 0, NULL, 0 },
};
/* clang-format on */

struct boot_args {
    struct vmm_config config;
    bool wants_stats, wants_help, has_kvmi;
};

static bool boot_parse_number(const char *text, uint64_t *value, const char **rest)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *value = strtoull(text, &end, 10);
    *rest = end;
    return errno == 0;
}

/* Rounded up to whole pages. */
static bool boot_parse_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    unsigned shift = 20;
    const char *rest, *unit;
    uint64_t value;

    if (!boot_parse_number(text, &value, &rest))
        return false;
    if (*rest) {
        unit = strchr(units, *rest & ~0x20);
        if (!unit || !*unit || (rest[1] && strcmp(rest + 1, "iB") != 0 && strcmp(rest + 1, "B") != 0))
            return false;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    if (value > UINT64_MAX >> shift || value << shift > UINT64_MAX - 4095)
        return false;
    *bytes = ((value << shift) + 4095) & ~4095ull;
    return true;
}

static int boot_add_disk(struct vmm_config *config, char *text)
{
    size_t n = strlen(text);
    struct vmm_disk *disk;

    if (config->n_disks == VMM_DISKS_MAX)
        return cli_error(CLI_USAGE, "boot", "more than %d disks", VMM_DISKS_MAX);
    disk = &config->disk[config->n_disks];
    if (n >= 3 && strcmp(text + n - 3, ",ro") == 0) {
        text[n - 3] = '\0';
        disk->is_readonly = true;
    }
    if (!*text)
        return cli_error(CLI_USAGE, "boot", "--disk needs a file name");
    disk->path = text;
    config->n_disks++;
    return CLI_DONE;
}

static int boot_parse_option(struct boot_args *args, int option, char *text)
{
    struct vmm_config *config = &args->config;
    const char *rest;
    uint64_t value;

    switch (option) {
    case OPT_INITRD:
        config->initrd = text;
        return CLI_DONE;
    case OPT_APPEND:
        config->append = text;
        return CLI_DONE;
    case OPT_CPUS:
        if (!boot_parse_number(text, &value, &rest) || *rest || value < 1 || value > VMM_CPUS_MAX)
            return cli_error(CLI_USAGE, "boot", "--cpus takes a number from 1 to %d, not '%s'", VMM_CPUS_MAX, text);
        config->cpus = (unsigned)value;
        return CLI_DONE;
    case OPT_MEM:
        if (!boot_parse_size(text, &config->mem_bytes))
            return cli_error(CLI_USAGE, "boot", "--mem takes a size such as 512M or 4G, not '%s'", text);
        return CLI_DONE;
    case OPT_DISK:
        return boot_add_disk(config, text);
    case OPT_NET:
        if (strcmp(text, "user") != 0 && strcmp(text, "none") != 0)
            return cli_error(CLI_USAGE, "boot", "--net takes 'user' or 'none', not '%s'", text);
        config->net = strcmp(text, "user") == 0 ? VMM_NET_USER : VMM_NET_NONE;
        return CLI_DONE;
    case OPT_DEVICE:
        config->device = text;
        config->port = &port_host;
        return CLI_DONE;
    case OPT_NAME:
        if (!*text)
            return cli_error(CLI_USAGE, "boot", "--name takes a name");
        vitrine_set_name(text);
        return CLI_DONE;
    case OPT_NO_INTROSPECTION:
        setenv("VITRINE_NO_INTROSPECTION", "1", 1);
        return CLI_DONE;
    case OPT_NO_SHARE:
        config->is_memory_private = true;
        return CLI_DONE;
    case OPT_KVMI:
        return attach_environment("boot", text, &args->has_kvmi);
    case OPT_ENGINE:
        if (vitrine_set_engine(text))
            return cli_error(CLI_USAGE, "boot", "--engine takes 'soft' or 'soft,step', not '%s'", text);
        return CLI_DONE;
    case OPT_STATS:
        args->wants_stats = true;
        return CLI_DONE;
    case OPT_MARKER:
        config->marker = text;
        return CLI_DONE;
    case OPT_HELP:
        args->wants_help = true;
        return CLI_DONE;
    default:
        return CLI_USAGE;
    }
}

static int boot_parse(struct boot_args *args, int argc, char **argv)
{
    int option, status = CLI_DONE;

    optind = 1;
    opterr = 0;
    while (status == CLI_DONE && (option = getopt_long(argc, argv, ":", boot_options, NULL)) != -1) {
        if (option == ':')
            status = cli_error(CLI_USAGE, "boot", "option '%s' needs a value", argv[optind - 1]);
        else if (option == '?' && optopt > 0)
            status = cli_error(CLI_USAGE, "boot", "option '%s' takes no value, or is not known", argv[optind - 1]);
        else if (option == '?')
            status = cli_error(CLI_USAGE, "boot", "there is no option '%s'", argv[optind - 1]);
        else
            status = boot_parse_option(args, option, optarg);
    }
    if (status != CLI_DONE || args->wants_help)
        return status;
    if (optind == argc)
        return cli_error(CLI_USAGE, "boot", "which kernel?");
    if (optind + 1 < argc)
        return cli_error(CLI_USAGE, "boot", "unexpected argument '%s'", argv[optind + 1]);
    args->config.kernel = argv[optind];
    return CLI_DONE;
}

static void boot_print_cpu(unsigned id, const struct vmm_cpu_stats *s)
{
    fprintf(stderr, "vcpu %u: rip 0x%" PRIx64 " rsp 0x%" PRIx64 " rflags 0x%" PRIx64 " cr0 0x%" PRIx64 " cr3 0x%" PRIx64 "\n  exits:", id, s->rip, s->rsp,
            s->rflags, s->cr0, s->cr3);
    for (unsigned k = 0; k < VMM_EXIT_COUNT; k++)
        fprintf(stderr, " %s %" PRIu64, vmm_exit_names[k], s->exits[k]);
    fputc('\n', stderr);
}

static void boot_print_stats(const struct boot_args *args, const struct vmm_stats *stats)
{
    fprintf(stderr, "engine: %s (%s)\n", args->config.port->name, args->config.device);
    fprintf(stderr, "memory: %" PRIu64 " MiB in %u slots\n", stats->mem_bytes >> 20, stats->slots);
    for (unsigned i = 0; i < stats->slots; i++)
        fprintf(stderr, "slot %u: guest-physical 0x%" PRIx64 "-0x%" PRIx64 " at %p\n", i, stats->slot[i].gpa, stats->slot[i].gpa + stats->slot[i].bytes - 1,
                stats->slot[i].host);
    fprintf(stderr, "devices: %u\n", stats->devices);
    fprintf(stderr, "restarts: %u\n", stats->restarts);
    fprintf(stderr, "vcpus: %u\n", stats->vcpus);
    for (unsigned i = 0; i < stats->vcpus; i++)
        boot_print_cpu(i, &stats->cpu[i]);
    fprintf(stderr, "seconds: %.3f\n", stats->total_seconds);
    if (args->config.marker && stats->marker_seconds >= 0)
        fprintf(stderr, "seconds to marker: %.3f\n", stats->marker_seconds);
    else if (args->config.marker)
        fputs("seconds to marker: never seen\n", stderr);
}

int boot_main(int argc, char **argv)
{
    struct boot_args args = { .config = { .port = &port_vitrine, .device = "/dev/kvm", .cpus = 1, .mem_bytes = 512ull << 20 } };
    static struct vmm_outcome outcome;
    int status;

    args.config.in_fd = STDIN_FILENO;
    args.config.out_fd = STDOUT_FILENO;
    args.config.is_memory_private = getenv("VITRINE_NO_SHARE") != NULL;
    status = boot_parse(&args, argc, argv);
    if (status != CLI_DONE)
        return status;
    if (args.wants_help) {
        printf("%s%s", boot_help, attach_where_help);
        return CLI_DONE;
    }
    vmm_run(&args.config, &outcome);
    if (*outcome.message)
        cli_error(CLI_FAILED, "boot", "%s", outcome.message);
    if (args.wants_stats)
        boot_print_stats(&args, &outcome.stats);
    return outcome.status;
}
