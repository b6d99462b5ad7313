/* SPDX-License-Identifier: MIT */
/*
 * The program: picks forms, makes instances, runs each with many inputs on both sides, reports what differs by form.
 *
 *   diff [--cases N] [--seed S] [--only MNEMONIC] [--instance I] [--step] [--single] [--watch [--system]] [--mode 64|32] [-v]
 *
 * --watch: a tool watches parts of the data and the code, is told, and lets it happen, has it tried again or denies it; --system: the forms that a process
 * cannot run. An instance is reproduced by --seed,
 * --instance and --mode (and --only,
 * --single if they were given). Exit status: 0 all equal, 1 differences, 2 usage, 77 this CPU cannot do it.
 */
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compare.h"
#include "watched.h"

#define INPUTS_PER_INSTANCE 20
#define INPUTS_PER_WATCHED 3
#define FAILED_FORMS_MAX 50
#define SEQUENCE_PERCENT 30
#define STEP_PERCENT 10

static struct {
    uint64_t cases, seed;
    const char *only;
    int64_t instance;
    bool is_step, is_single, is_watch, is_verbose;
} options = { .cases = 2000000, .instance = -1 };

unsigned diff_mode_bits = 64;
bool diff_is_system;
static unsigned n_forms;
static struct machine_state input, native, guest;
static uint64_t n_cases, n_faults, n_failed;
static struct {
    const char *name;
    uint8_t enc, is_mem, is_sequence;
    uint64_t n;
} failed[FAILED_FORMS_MAX];
static unsigned n_failed_forms;

/* ---- reporting ---- */

static void print_code(const struct instance *i)
{
    for (unsigned k = 0; k < i->n; k++) {
        ZydisDisassembledInstruction d;
        printf("  %#llx ", (unsigned long long)(i->at + i->offset[k]));
        for (unsigned b = i->offset[k]; b < i->offset[k + 1]; b++)
            printf(" %02x", i->bytes[b]);
        if (ZYAN_SUCCESS(ZydisDisassembleIntel(diff_mode_bits == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32, i->at + i->offset[k],
                                               i->bytes + i->offset[k], i->offset[k + 1] - i->offset[k], &d)))
            printf("   %s", d.text);
        printf("\n");
    }
}

static void print_state(const char *who, const struct machine_state *st)
{
    printf("  %s: rip %#llx rflags %#llx", who, (unsigned long long)st->rip, (unsigned long long)st->rflags);
    for (unsigned n = 0; n < GPR_COUNT; n++)
        printf("%s%s=%llx", n % 8 ? " " : "\n    ", compare_gpr_name(n), (unsigned long long)st->gpr[n]);
    printf("\n    fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x\n", st->xsave[1], st->xsave[0], st->xsave[3], st->xsave[2], st->xsave[4], st->xsave[25],
           st->xsave[24]);
}

/* True the first time that this form fails. */
static bool note_failure(const struct instance *i, unsigned piece)
{
    const struct insn *in = &i->insn[piece];
    const char *name = form_name(in->mnemonic);
    n_failed++;
    for (unsigned k = 0; k < n_failed_forms; k++)
        if (failed[k].name == name && failed[k].enc == in->enc && failed[k].is_mem == in->has_mem && failed[k].is_sequence == i->is_sequence) {
            failed[k].n++;
            return false;
        }
    failed[n_failed_forms].name = name;
    failed[n_failed_forms].enc = in->enc;
    failed[n_failed_forms].is_mem = in->has_mem;
    failed[n_failed_forms].is_sequence = i->is_sequence;
    failed[n_failed_forms++].n = 1;
    return true;
}

static void report(const struct instance *i, unsigned piece, uint64_t number, unsigned k, bool is_stepping, const char *text)
{
    if (!note_failure(i, piece) && !options.is_verbose)
        return;
    printf("differs: %s, %u-bit%s: --mode %u --seed %llu --instance %llu, input %u\n", form_name(i->insn[piece].mnemonic), diff_mode_bits,
           is_stepping ? " stepping" : "", diff_mode_bits, (unsigned long long)options.seed, (unsigned long long)number, k);
    print_code(i);
    if (i->is_sequence)
        printf("  first wrong after instruction %u\n", piece + 1);
    printf("  %s\n", text);
    print_state("before", &input);
    print_state("bare CPU", &native);
    print_state("engine", &guest);
}

static void summary(double seconds)
{
    printf("%llu cases (%llu ended in faults) of %u forms in %.1f s, %llu differ\n", (unsigned long long)n_cases, (unsigned long long)n_faults, n_forms,
           seconds, (unsigned long long)n_failed);
    for (unsigned k = 0; k < n_failed_forms; k++)
        printf("  %-16s %s%s%s: %llu\n", failed[k].name,
               failed[k].enc == ENC_LEGACY ? "legacy"
               : failed[k].enc == ENC_VEX  ? "vex"
                                           : "evex",
               failed[k].is_mem ? " mem" : "", failed[k].is_sequence ? " in a sequence" : "", (unsigned long long)failed[k].n);
}

/* ---- one case ---- */

static void put_code(const struct instance *i, unsigned len)
{
    unsigned at = (unsigned)(i->at - CODE_AT);
    memcpy(native_code() + at, i->bytes, len);
    memcpy(guest_code() + at, i->bytes, len);
    native_tail(native_code() + at + len);
    guest_tail(guest_code() + at + len);
    guest_code_changed();
}

/* Fields that hold addresses of the host's last x87 instruction. */
static void blank_x87_pointers(const struct instance *i, uint8_t *data)
{
    unsigned from = 8, bytes = 16, first = 6;
    switch (i->insn[0].mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
        first = i->insn[0].op_bytes == 2 ? 6 : 12;
        from = first;
        bytes = i->insn[0].op_bytes == 2 ? 8 : 16;
        break;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        break;
    default:
        return;
    }
    for (unsigned k = 0; k < 2; k++, first = from)
        for (uint64_t a = i->target + first; a < i->target + from + bytes; a++)
            if (a >= DATA_AT && a < DATA_AT + DATA_BYTES)
                data[a - DATA_AT] = 0;
}

/*
 * Status flags at a fault that the faulting instruction, once repeated, or what follows overwrites unread: translated code does not keep them across the check
 * of a memory operand. No program that returns from the fault can tell.
 */
static uint64_t dead_flags(const struct instance *i, const struct insn **at)
{
    uint64_t live = RFLAGS_STATUS;
    *at = &i->insn[i->n - 1];
    for (unsigned k = i->n; k-- > 0;) {
        const struct insn *in = &i->insn[k];
        if (in->category == ZYDIS_CATEGORY_COND_BR)
            live = RFLAGS_STATUS;
        else
            live = (live & ~(uint64_t)in->flags_must) | (in->flags_read & RFLAGS_STATUS);
        if ((native.vector >= 0 ? native.rip : guest.rip) == i->at + i->offset[k]) {
            *at = in;
            return RFLAGS_STATUS & ~live;
        }
    }
    return 0;
}

static bool run_both(const struct instance *i, bool is_stepping, char *text)
{
    char told[COMPARE_TEXT_BYTES] = "";
    bool is_told_right = true;
    input.rip = i->at;
    if (options.is_watch) {
        is_told_right = watched_run(i, &input, &native, &guest, told);
    } else {
        native_run(&input, &native);
        guest_run(&input, &guest, is_stepping);
    }
    blank_x87_pointers(i, native_data());
    blank_x87_pointers(i, guest_data());
    const struct insn *at;
    uint64_t dead = dead_flags(i, &at);
    if (compare_is_excused(&native, &guest, at))
        return false;
    if (compare_states(&native, &guest, dead, at, text) || (compare_wants_memory(&native, at) && compare_memory(native_data(), guest_data(), text)))
        return true;
    if (!is_told_right)
        memcpy(text, told, sizeof told);
    return !is_told_right;
}

/* The first instruction of a sequence after which the sides differ. */
static unsigned find_piece(const struct instance *i, const uint8_t *before, bool is_stepping, char *text)
{
    static struct instance part;
    for (unsigned n = 1; n < i->n; n++) {
        part = *i;
        part.n = n;
        part.len = i->offset[n];
        part.at = (i->at & ~1023ull) + 64; /* elsewhere: the engine may have to translate anew */
        if (i->insn[n - 1].category == ZYDIS_CATEGORY_COND_BR)
            continue;
        put_code(&part, part.len);
        memcpy(native_data(), before, DATA_BYTES);
        memcpy(guest_data(), before, DATA_BYTES);
        if (run_both(&part, is_stepping, text))
            return n - 1;
    }
    put_code(i, i->len);
    memcpy(native_data(), before, DATA_BYTES);
    memcpy(guest_data(), before, DATA_BYTES);
    run_both(i, is_stepping, text);
    return i->n - 1;
}

static void run_case(struct instance *i, uint64_t number, unsigned k, bool is_stepping)
{
    static uint8_t before[DATA_BYTES];
    char text[COMPARE_TEXT_BYTES];
    if (i->is_sequence)
        memcpy(before, native_data(), DATA_BYTES);
    n_cases++;
    bool is_different = run_both(i, is_stepping, text);
    n_faults += native.vector != VECTOR_NONE;
    if (!is_different) {
        if (native.vector >= 0 || guest.vector >= 0)
            memcpy(guest_data(), native_data(), DATA_BYTES); /* what was not compared */
        return;
    }
    unsigned piece = i->is_sequence ? find_piece(i, before, is_stepping, text) : 0;
    report(i, piece, number, k, is_stepping, text);
    if (i->is_sequence)
        put_code(i, i->len);
    memcpy(guest_data(), native_data(), DATA_BYTES);
}

static uint64_t pick_place(struct rng *r)
{
    const unsigned room = 256;
    if (rng_percent(r, 4)) /* across a page */
        return CODE_AT + (1 + rng_below(r, CODE_PAGES - 1)) * PAGE_BYTES - 1 - rng_below(r, 20);
    return CODE_AT + 1024 + rng_below(r, CODE_PAGES * (unsigned)PAGE_BYTES - room - 1024);
}

static void run_instance(uint64_t number)
{
    static struct instance i;
    struct rng r;
    rng_seed(&r, options.seed, number);
    bool is_stepping = options.is_step || rng_percent(&r, STEP_PERCENT);
    bool is_sequence = !options.is_single && !options.only && rng_percent(&r, SEQUENCE_PERCENT);
    uint64_t at = pick_place(&r);
    /* Sequences are drawn anew by `number`; single forms are gone through in order, so that each is met. */
    bool is_made = is_sequence ? instance_make_sequence(&r, at, &i, n_forms) : instance_make(&r, form_at((unsigned)(number % n_forms)), at, &i);
    if (!is_made || (options.is_watch && !is_sequence && !watched_wants(&i.insn[0])))
        return;
    put_code(&i, i.len);
    value_fill_memory(&r, native_data(), DATA_BYTES);
    memcpy(guest_data(), native_data(), DATA_BYTES);
    for (unsigned k = 0; k < (options.is_watch ? INPUTS_PER_WATCHED : INPUTS_PER_INSTANCE) && n_failed_forms < FAILED_FORMS_MAX; k++) {
        value_fill_state(&r, &input);
        instance_aim(&r, &i, &input, native_data(), guest_data());
        if (diff_is_system)
            system_aim(&r, &i, &input, guest_data());
        if (options.is_watch)
            watched_plan(&r, &i, &input, is_stepping);
        run_case(&i, number, k, is_stepping);
    }
}

/* ---- main ---- */

static int parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--step"))
            options.is_step = true;
        else if (!strcmp(a, "--single"))
            options.is_single = true;
        else if (!strcmp(a, "--watch"))
            options.is_watch = true;
        else if (!strcmp(a, "--system"))
            diff_is_system = options.is_watch = options.is_single = true;
        else if (!strcmp(a, "-v"))
            options.is_verbose = true;
        else if (!value)
            return -1;
        else if (!strcmp(a, "--cases"))
            options.cases = strtoull(value, NULL, 0), i++;
        else if (!strcmp(a, "--seed"))
            options.seed = strtoull(value, NULL, 0), i++;
        else if (!strcmp(a, "--only"))
            options.only = value, i++;
        else if (!strcmp(a, "--instance"))
            options.instance = strtoll(value, NULL, 0), i++;
        else if (!strcmp(a, "--mode") && (!strcmp(value, "32") || !strcmp(value, "64")))
            diff_mode_bits = (unsigned)atoi(value), i++;
        else
            return -1;
    }
    return 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run_all(void)
{
    if (options.instance >= 0) {
        run_instance((uint64_t)options.instance);
        return;
    }
    for (uint64_t n = 0; n_cases < options.cases && n_failed_forms < FAILED_FORMS_MAX && n < options.cases; n++)
        run_instance(n);
}

int main(int argc, char **argv)
{
    struct features features;
    options.seed = (uint64_t)time(NULL);
    if (parse(argc, argv)) {
        fprintf(stderr, "usage: diff [--cases N] [--seed S] [--only MNEMONIC] [--instance I] [--step] [--single] [--watch [--system]] [--mode 64|32] [-v]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    int r = guest_init(&features);
    if (!r)
        r = native_init();
    if (!r && options.is_watch)
        r = watched_init();
    if (r) {
        printf("cannot set up: %s\n", strerror(-r));
        return 77;
    }
    n_forms = forms_build(&features, options.only);
    if (!n_forms) {
        printf("no such form\n");
        return 2;
    }
    printf("seed %llu\n", (unsigned long long)options.seed);
    double began = now();
    run_all();
    summary(now() - began);
    if (options.is_watch) {
        watched_print();
        n_failed += !watched_has_enough(n_cases);
    }
    return n_failed ? 1 : 0;
}
