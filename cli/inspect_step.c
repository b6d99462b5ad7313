/* SPDX-License-Identifier: MIT */
/*
 * `vitrine pause`, `resume` and `step`: a VM or one of its vCPUs stands still, goes on, or executes single instructions, which are shown as Zydis writes them.
 */
#include <Zydis/Zydis.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/inspect.h"

#define INSN_BYTES_MAX 15
#define VCPUS_MAX 64
#define PATIENCE_MS 1000

static const char pause_usage[] =
    "usage: vitrine pause [--vcpu N] [--json] VM\n\nStops all vCPUs, or one, between two instructions until 'vitrine resume'. The VMM "
    "is not stopped; its clocks go on.\n";
static const char resume_usage[] = "usage: vitrine resume [--vcpu N] [--json] VM\n\nLets a paused virtual machine go on, or one of its vCPUs.\n";
static const char step_usage[] =
    "usage: vitrine step [--vcpu N] [--json] VM [COUNT]\n\n"
    "Executes COUNT instructions (1) of vCPU N (0), which is paused if it is not, and stays so. Prints each instruction that is next.\n"
    "Interrupts wait meanwhile; if the vCPU is halted, the one that wakes it is delivered first.\n";

struct options {
    bool is_json, has_vcpu;
    uint32_t vcpu;
};

/* -1: go on at optind, with at least the VM. */
static int parse(int argc, char **argv, const char *usage, int most, struct options *o)
{
    static const struct option options[] = {
        { "json", no_argument, NULL, 'j' }, { "vcpu", required_argument, NULL, 'v' }, { "help", no_argument, NULL, 'h' }, { 0 }
    };
    optind = 1;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'h')
            return fputs(usage, stdout) < 0 ? CLI_FAILED : CLI_DONE;
        if (c == ':' || c == '?')
            return inspect_bad_option(argv[0], c, argv[optind - 1]);
        if (c == 'v' && inspect_vcpu(argv[0], optarg, &o->vcpu))
            return CLI_USAGE;
        if (c == 'v')
            o->has_vcpu = true;
        else
            o->is_json = true;
    }
    if (argc == optind)
        return cli_error(CLI_USAGE, argv[0], "which virtual machine?");
    return argc - optind > most ? cli_error(CLI_USAGE, argv[0], "unexpected argument '%s'", argv[optind + most]) : -1;
}

/* ---- pause, resume ---- */

static int change_state(int argc, char **argv, const char *usage, int (*all)(struct vitrine_vm *), int (*one)(struct vitrine_vm *, uint32_t))
{
    struct options o = { .is_json = false };
    int status = parse(argc, argv, usage, 1, &o);
    if (status >= 0)
        return status;
    struct vitrine_vm *vm = inspect_open(argv[0], argv[optind]);
    if (!vm)
        return CLI_FAILED;
    if (o.has_vcpu ? one(vm, o.vcpu) : all(vm))
        status = inspect_failed(argv[0], argv[0]);
    else
        status = o.is_json ? inspect_print_json(argv[0], json_object()) : CLI_DONE;
    vitrine_vm_close(vm);
    return status;
}

int pause_main(int argc, char **argv)
{
    return change_state(argc, argv, pause_usage, vitrine_vm_pause, vitrine_vcpu_pause);
}

int resume_main(int argc, char **argv)
{
    return change_state(argc, argv, resume_usage, vitrine_vm_resume, vitrine_vcpu_resume);
}

/* ---- step ---- */

/* By the code segment's mode. The text of what cannot be read or decoded says so. */
static void disassemble(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_regs *r, char text[128])
{
    const struct vitrine_segment *cs = &r->segment[VITRINE_CS];
    bool is_long = (r->efer & 0x400) && (cs->attributes >> 13 & 1), is_32 = cs->attributes >> 14 & 1;
    uint8_t bytes[INSN_BYTES_MAX];
    ZydisDisassembledInstruction insn;
    ssize_t n = vitrine_vcpu_mem_read(vm, vcpu, is_long ? r->rip : (uint32_t)(cs->base + r->rip), bytes, sizeof bytes, NULL);
    ZydisMachineMode mode = is_long ? ZYDIS_MACHINE_MODE_LONG_64 : is_32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
    if (n <= 0)
        snprintf(text, 128, "(not mapped)");
    else if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode, r->rip, bytes, (ZyanUSize)n, &insn)))
        snprintf(text, 128, "(no instruction)");
    else
        snprintf(text, 128, "%s", insn.text);
}

static int print_place(struct vitrine_vm *vm, const struct options *o)
{
    struct vitrine_regs r;
    char text[128];
    if (vitrine_vcpu_get_regs(vm, o->vcpu, &r))
        return inspect_failed("step", "read registers");
    disassemble(vm, o->vcpu, &r, text);
    if (o->is_json)
        return inspect_print_json("step", json_pack("{s:I, s:o, s:s, s:o}", "vcpu", (json_int_t)o->vcpu, "rip", inspect_hex(r.rip), "next", text, "cs",
                                                    inspect_hex(r.segment[VITRINE_CS].selector)));
    printf("vcpu %" PRIu32 "  %04x:%016" PRIx64 "  %s\n", o->vcpu, r.segment[VITRINE_CS].selector, r.rip, text);
    return fflush(stdout) ? CLI_FAILED : CLI_DONE;
}

static bool is_halted(struct vitrine_vm *vm, uint32_t id)
{
    struct vitrine_vcpu_info vcpu[VCPUS_MAX];
    int n = vitrine_vm_vcpus(vm, vcpu, VCPUS_MAX);
    for (int i = 0; i < n && i < VCPUS_MAX; i++)
        if (vcpu[i].id == id)
            return vcpu[i].activity == VITRINE_VCPU_HALTED || vcpu[i].activity == VITRINE_VCPU_WAITS_FOR_SIPI;
    return false;
}

/* A second without an instruction deserves a word. */
static int step_one(struct vitrine_vm *vm, const struct options *o, bool *has_warned)
{
    for (;;) {
        int n = vitrine_vcpu_step(vm, o->vcpu, 1, PATIENCE_MS);
        if (n < 0 && errno == EBUSY)
            return cli_error(CLI_FAILED, "step", "another tool steps this vCPU, or has to answer first what it is about to do");
        if (n < 0)
            return inspect_failed("step", "step");
        if (n)
            return CLI_DONE;
        if (!*has_warned)
            fprintf(stderr, "vitrine step: %s\n",
                    is_halted(vm, o->vcpu) ? "the vCPU is halted and waits for an interrupt" : "the VMM does not run this vCPU now");
        *has_warned = true;
    }
}

int step_main(int argc, char **argv)
{
    struct options o = { .is_json = false };
    uint64_t count = 1;
    bool has_warned = false;
    int status = parse(argc, argv, step_usage, 2, &o);
    if (status >= 0)
        return status;
    if (argc - optind == 2 && !inspect_number(argv[optind + 1], false, &count))
        return cli_error(CLI_USAGE, "step", "'%s' is not a number of instructions", argv[optind + 1]);
    struct vitrine_vm *vm = inspect_open("step", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    struct vitrine_vm_info info;
    if (vitrine_vm_info(vm, &info) || (!info.is_paused && vitrine_vcpu_pause(vm, o.vcpu)))
        status = inspect_failed("step", "pause the vCPU");
    else
        status = count ? CLI_DONE : print_place(vm, &o);
    for (uint64_t i = 0; !status && i < count; i++) {
        status = step_one(vm, &o, &has_warned);
        if (!status)
            status = print_place(vm, &o);
    }
    vitrine_vm_close(vm);
    return status;
}
