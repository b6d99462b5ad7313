/* SPDX-License-Identifier: MIT */
/*
 * `vitrine regs`: shows registers of vCPUs, and sets some. A vCPU stands still for as long as that takes.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/inspect.h"
#include "cli/registers.h"

#define VCPUS_MAX 64
#define WISHES_MAX 64u
#define XSAVE_BV 512

static const char usage[] =
    "usage: vitrine regs [--vcpu N] [--all] [--msr INDEX]... [--json] VM\n"
    "       vitrine regs [--vcpu N] --set NAME=VALUE... [--json] VM\n\n"
    "Shows the registers of one vCPU or of all; each stops for as long as it takes to copy them. --all: MSRs and vector registers too.\n"
    "--msr: only these MSRs, by number or by the name that --all shows.\n"
    "--set changes registers of the VM's only vCPU or of vCPU N: the names that are shown, cs.base and its kin (selector, limit,\n"
    "attributes), xmm0 to xmm15, mxcsr, fcw, msr:INDEX. All are set together, or none but MSRs that come before the one that fails.\n";

struct wishes {
    bool is_json, has_all;
    int64_t vcpu; /* -1: all */
    unsigned n_msrs, n_sets;
    uint32_t msr[WISHES_MAX];
    char *set[WISHES_MAX];
};

struct state {
    uint32_t vcpu;
    struct vitrine_regs regs;
    struct vitrine_xsave xsave;
    struct vitrine_msr msr[WISHES_MAX];
    unsigned n_msrs;
};

/* ---- printing ---- */

static void msr_label(uint32_t index, char text[40])
{
    const char *name = registers_msr_name(index);
    if (name)
        snprintf(text, 40, "%s", name);
    else
        snprintf(text, 40, "msr:0x%" PRIx32, index);
}

static const char *hex_of(const uint8_t *bytes, unsigned n, char *text)
{
    for (unsigned i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[n - 1 - i]);
    return text;
}

static json_t *msrs_json(const struct state *s)
{
    json_t *all = json_object();
    char label[40];
    for (unsigned i = 0; i < s->n_msrs; i++) {
        if (s->msr[i].error)
            continue;
        msr_label(s->msr[i].index, label);
        json_object_set_new(all, label, inspect_hex(s->msr[i].value));
    }
    return all;
}

static void add_vectors(json_t *all, const struct state *s)
{
    char text[2 * VITRINE_XSAVE_BYTES + 1], name[8];
    for (unsigned i = 0; i < 16; i++) {
        snprintf(name, sizeof name, "xmm%u", i);
        json_object_set_new(all, name, json_sprintf("0x%s", hex_of(s->xsave.area + 160 + 16 * i, 16, text)));
    }
    for (unsigned i = 0; i < VITRINE_XSAVE_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", s->xsave.area[i]);
    json_object_set_new(all, "xsave", json_string(text));
}

static json_t *state_json(const struct wishes *w, const struct state *s)
{
    json_t *all = json_pack("{s:I}", "vcpu", (json_int_t)s->vcpu);
    const struct vitrine_regs *r = &s->regs;
    if (s->n_msrs)
        json_object_set_new(all, "msr", msrs_json(s));
    if (w->n_msrs)
        return all;
    for (unsigned i = 0; i < 16; i++)
        json_object_set_new(all, registers_gpr[i], inspect_hex(r->gpr[i]));
    for (unsigned i = 0; i < registers_n_words; i++)
        json_object_set_new(all, registers_word[i].name, inspect_hex(registers_word_get(r, i)));
    for (unsigned i = 0; i < VITRINE_SEGMENTS; i++)
        json_object_set_new(all, registers_segment[i],
                            json_pack("{s:o, s:o, s:o, s:o}", "selector", inspect_hex(r->segment[i].selector), "base", inspect_hex(r->segment[i].base), "limit",
                                      inspect_hex(r->segment[i].limit), "attributes", inspect_hex(r->segment[i].attributes)));
    if (w->has_all)
        add_vectors(all, s);
    return all;
}

static void print_vectors(const struct state *s)
{
    char high[40], low[40];
    uint32_t mxcsr;
    uint16_t fcw;
    memcpy(&mxcsr, s->xsave.area + 24, sizeof mxcsr);
    memcpy(&fcw, s->xsave.area, sizeof fcw);
    printf("mxcsr %08" PRIx32 "  fcw %04x\n", mxcsr, fcw);
    for (unsigned i = 0; i < 8; i++)
        printf("st%u   %s\n", i, hex_of(s->xsave.area + 32 + 16 * i, 10, low));
    /* Component 2 of the standard format follows the header wherever there is one. */
    for (unsigned i = 0; i < 16; i++)
        printf("ymm%-2u %s %s\n", i, hex_of(s->xsave.area + 576 + 16 * i, 16, high), hex_of(s->xsave.area + 160 + 16 * i, 16, low));
}

static void print_state(const struct wishes *w, const struct state *s)
{
    const struct vitrine_regs *r = &s->regs;
    char label[40];
    printf("vcpu %" PRIu32 "\n", s->vcpu);
    for (unsigned i = 0; i < 16 && !w->n_msrs; i++)
        printf("%-4s %016" PRIx64 "%s", registers_gpr[i], r->gpr[i], i % 4 == 3 ? "\n" : "  ");
    for (unsigned i = 0; i < registers_n_words && !w->n_msrs; i++)
        printf("%-14s %016" PRIx64 "%s", registers_word[i].name, registers_word_get(r, i), i % 3 == 2 || i == registers_n_words - 1 ? "\n" : "  ");
    for (unsigned i = 0; i < VITRINE_SEGMENTS && !w->n_msrs; i++) {
        const struct vitrine_segment *g = &r->segment[i];
        printf("%-4s %04x base %016" PRIx64 " limit %08" PRIx32 " attributes %04x%s\n", registers_segment[i], g->selector, g->base, g->limit, g->attributes,
               g->attributes & 0x80 ? "" : " not present");
    }
    for (unsigned i = 0; i < s->n_msrs; i++) {
        msr_label(s->msr[i].index, label);
        if (!s->msr[i].error)
            printf("%-18s %08" PRIx32 " %016" PRIx64 "\n", label, s->msr[i].index, s->msr[i].value);
    }
    if (w->has_all)
        print_vectors(s);
}

/* ---- getting ---- */

/* Zero, or a status after a message. */
static int state_get(struct vitrine_vm *vm, const struct wishes *w, struct state *s)
{
    s->n_msrs = 0;
    if (vitrine_vcpu_get_regs(vm, s->vcpu, &s->regs) || (w->has_all && vitrine_vcpu_get_xsave(vm, s->vcpu, &s->xsave)))
        return inspect_failed("regs", "read registers");
    for (unsigned i = 0; i < w->n_msrs; i++)
        s->msr[s->n_msrs++] = (struct vitrine_msr){ .index = w->msr[i] };
    for (unsigned i = 0; w->has_all && !w->n_msrs && i < registers_n_msrs; i++)
        s->msr[s->n_msrs++] = (struct vitrine_msr){ .index = registers_msr[i].index };
    if (s->n_msrs && vitrine_vcpu_get_msrs(vm, s->vcpu, s->msr, s->n_msrs))
        return inspect_failed("regs", "read MSRs");
    for (unsigned i = 0; i < w->n_msrs; i++)
        if (s->msr[i].error)
            return cli_error(CLI_FAILED, "regs", "the virtual machine has no MSR 0x%" PRIx32, s->msr[i].index);
    return CLI_DONE;
}

static int show(struct vitrine_vm *vm, const struct wishes *w)
{
    static struct state s;
    struct vitrine_vcpu_info vcpu[VCPUS_MAX];
    json_t *all = json_array();
    int n = vitrine_vm_vcpus(vm, vcpu, VCPUS_MAX), status = n < 0 ? inspect_failed("regs", "read registers") : CLI_DONE;
    bool is_found = w->vcpu < 0;
    for (int i = 0; !status && i < n && i < VCPUS_MAX; i++) {
        if (w->vcpu >= 0 && vcpu[i].id != w->vcpu)
            continue;
        is_found = true;
        s.vcpu = vcpu[i].id;
        status = state_get(vm, w, &s);
        if (!status && w->is_json)
            json_array_append_new(all, state_json(w, &s));
        else if (!status)
            print_state(w, &s);
    }
    if (!status && !is_found) {
        errno = ENOENT;
        status = inspect_failed("regs", "read registers");
    }
    if (!status && w->is_json)
        return inspect_print_json("regs", all);
    json_decref(all);
    return status;
}

/* ---- setting ---- */

struct change {
    struct register_place place;
    uint8_t value[16]; /* little endian */
};

/* Up to `bytes` bytes; hexadecimal has no limit of its own, other numbers are of 64 bits. */
static bool parse_value(const char *text, unsigned bytes, uint8_t value[16])
{
    uint64_t number;
    memset(value, 0, 16);
    if (!strncmp(text, "0x", 2) && strlen(text) > 18) {
        const char *digits = text + 2;
        size_t n = strlen(digits);
        if (n > 2 * bytes || strspn(digits, "0123456789abcdefABCDEF") != n)
            return false;
        for (size_t i = 0; i < n; i++) {
            char c = digits[n - 1 - i];
            unsigned digit = c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
            value[i / 2] |= (uint8_t)(digit << 4 * (i % 2));
        }
        return true;
    }
    if (!inspect_number(text, false, &number) || (bytes < 8 && number >> 8 * bytes))
        return false;
    memcpy(value, &number, sizeof number);
    return true;
}

static int parse_set(const char *text, struct change *out)
{
    char name[40];
    const char *equals = strchr(text, '=');
    if (!equals || equals - text >= (ptrdiff_t)sizeof name)
        return cli_error(CLI_USAGE, "regs", "'%s' is not NAME=VALUE", text);
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    out->place = registers_find(name);
    if (out->place.home == REGISTER_NONE)
        return cli_error(CLI_USAGE, "regs", "there is no register '%s'", name);
    if (!parse_value(equals + 1, out->place.bytes, out->value))
        return cli_error(CLI_USAGE, "regs", "'%s' is not a number of %u bits", equals + 1, 8u * out->place.bytes);
    return CLI_DONE;
}

static int set_msrs(struct vitrine_vm *vm, uint32_t vcpu, const struct change *c, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct vitrine_msr msr = { .index = c[i].place.index };
        if (c[i].place.home != REGISTER_MSR)
            continue;
        memcpy(&msr.value, c[i].value, sizeof msr.value);
        if (vitrine_vcpu_set_msrs(vm, vcpu, &msr, 1))
            return inspect_failed("regs", "set MSRs");
        if (msr.error)
            return cli_error(CLI_FAILED, "regs", msr.error == ENOENT ? "the virtual machine has no MSR 0x%" PRIx32 : "MSR 0x%" PRIx32 " cannot have this value",
                             msr.index);
    }
    return CLI_DONE;
}

/* The vCPU is held. */
static int set_all(struct vitrine_vm *vm, struct state *s, const struct change *c, unsigned n)
{
    bool has_regs = false, has_xsave = false;
    if (vitrine_vcpu_get_regs(vm, s->vcpu, &s->regs) || vitrine_vcpu_get_xsave(vm, s->vcpu, &s->xsave))
        return inspect_failed("regs", "read registers");
    for (unsigned i = 0; i < n; i++) {
        if (c[i].place.home == REGISTER_REGS) {
            memcpy((char *)&s->regs + c[i].place.at, c[i].value, c[i].place.bytes);
            has_regs = true;
        } else if (c[i].place.home == REGISTER_XSAVE) {
            memcpy(s->xsave.area + c[i].place.at, c[i].value, c[i].place.bytes);
            s->xsave.area[XSAVE_BV] |= (uint8_t)(1u << c[i].place.index);
            has_xsave = true;
        }
    }
    if (has_regs && vitrine_vcpu_set_regs(vm, s->vcpu, &s->regs))
        return errno == EINVAL ? cli_error(CLI_FAILED, "regs", "no CPU has these values together") : inspect_failed("regs", "set registers");
    if (has_xsave && vitrine_vcpu_set_xsave(vm, s->vcpu, &s->xsave))
        return errno == EINVAL ? cli_error(CLI_FAILED, "regs", "mxcsr cannot have this value") : inspect_failed("regs", "set registers");
    return set_msrs(vm, s->vcpu, c, n);
}

/* Which vCPU is meant: w->vcpu, or a status after a message. */
static int find_target(struct vitrine_vm *vm, struct wishes *w)
{
    struct vitrine_vcpu_info only;
    if (w->vcpu >= 0)
        return CLI_DONE;
    int n = vitrine_vm_vcpus(vm, &only, 1);
    if (n < 0)
        return inspect_failed("regs", "find the vCPU");
    if (n != 1)
        return cli_error(CLI_USAGE, "regs", "there are %d vCPUs; which? --vcpu N", n);
    w->vcpu = only.id;
    return CLI_DONE;
}

static int set(struct vitrine_vm *vm, struct wishes *w, const struct change *c)
{
    static struct state s;
    int status = find_target(vm, w);
    if (status)
        return status;
    s.vcpu = (uint32_t)w->vcpu;
    if (vitrine_vcpu_hold(vm, s.vcpu))
        return inspect_failed("regs", "stop the vCPU");
    status = set_all(vm, &s, c, w->n_sets);
    if (!status && w->is_json)
        status = show(vm, w);
    if (vitrine_vcpu_release(vm, s.vcpu) && !status)
        status = inspect_failed("regs", "let the vCPU go on");
    return status;
}

/* ---- the command ---- */

static int parse_option(int c, struct wishes *w, char **argv)
{
    uint32_t number;
    switch (c) {
    case 'j':
        w->is_json = true;
        return CLI_DONE;
    case 'a':
        w->has_all = true;
        return CLI_DONE;
    case 'v':
        if (inspect_vcpu("regs", optarg, &number))
            return CLI_USAGE;
        w->vcpu = number;
        return CLI_DONE;
    case 'm':
        if (w->n_msrs == WISHES_MAX || !registers_msr_parse(optarg, &w->msr[w->n_msrs++]))
            return cli_error(CLI_USAGE, "regs", w->n_msrs == WISHES_MAX ? "too many MSRs with '%s'" : "'%s' is not an MSR", optarg);
        return CLI_DONE;
    case 's':
        if (w->n_sets == WISHES_MAX)
            return cli_error(CLI_USAGE, "regs", "too many registers");
        w->set[w->n_sets++] = optarg;
        return CLI_DONE;
    default:
        return inspect_bad_option("regs", c, argv[optind - 1]);
    }
}

int regs_main(int argc, char **argv)
{
    static const struct option options[] = { { "vcpu", required_argument, NULL, 'v' },
                                             { "all", no_argument, NULL, 'a' },
                                             { "msr", required_argument, NULL, 'm' },
                                             { "set", required_argument, NULL, 's' },
                                             { "json", no_argument, NULL, 'j' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    struct wishes w = { .vcpu = -1 };
    static struct change change[WISHES_MAX];
    int status = CLI_DONE;
    optind = 1;
    opterr = 0;
    for (int c; !status && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'h')
            return fputs(usage, stdout) < 0 ? CLI_FAILED : CLI_DONE;
        status = parse_option(c, &w, argv);
    }
    for (unsigned i = 0; !status && i < w.n_sets; i++)
        status = parse_set(w.set[i], &change[i]);
    if (status)
        return status;
    if (argc - optind != 1)
        return cli_error(CLI_USAGE, "regs", argc == optind ? "which virtual machine?" : "more than one virtual machine");
    struct vitrine_vm *vm = inspect_open("regs", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    status = w.n_sets ? set(vm, &w, change) : show(vm, &w);
    vitrine_vm_close(vm);
    return status;
}
