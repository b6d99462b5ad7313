/* SPDX-License-Identifier: MIT */
/*
 * `vitrine trace`: subscribes to the events that the user names, and prints a line for each as it comes. How events are written on the command line and how
 * they are printed is one table; see vitrine/inspect.h for what they mean.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/inspect.h"

#define PAGES_MAX 4096u
#define EVENTS_AT_ONCE 64
#define PAGE_BYTES 4096ull

static const char usage[] = "usage: vitrine trace --on EVENT[,EVENT...] [--if FILTER[,FILTER...]] [--virtual] [--vcpu N] [--wait] [--count N] [--json] VM\n\n"
                            "Prints a line for each event of a virtual machine, until --count N were printed or it is interrupted. EVENT:\n"
                            "  cr0 cr3 cr4 cr8 cr       a control register is written\n"
                            "  msr[:N] rdmsr[:N]        an MSR is written, read\n"
                            "  read:RANGE write:RANGE access:RANGE exec:RANGE\n"
                            "                           guest memory is read, written, either, an instruction there is executed\n"
                            "  syscall int3 step xsetbv tables cpuid[:LEAF] hypercall[:N] port[:N] exception[:VECTOR] interrupt[:VECTOR]\n"
                            "RANGE is ADDRESS, ADDRESS+BYTES or FIRST-LAST: guest-physical, with --virtual linear by the page tables of vCPU N (0) now.\n"
                            "FILTER: vcpu=N, cpl=N, cr3=N. They are evaluated before the virtual machine is held up. Without --wait, events that come\n"
                            "faster than they can be printed are lost, and counted at the end; with it each one waits until it was printed.\n";

struct options {
    bool is_virtual, is_waiting, is_json;
    uint64_t vcpu, count;
};

struct wish {
    struct vitrine_subscription what;
    struct vitrine_range range[PAGES_MAX];
    unsigned n_ranges;
};

/* ---- what the user wants ---- */

enum argument { TAKES_NOTHING, TAKES_INDEX, TAKES_RANGE };

static const struct event_name {
    const char *name;
    uint32_t kind, access, index; /* index: of CRs, all with UINT32_MAX */
    enum argument argument;
} event_names[] = {
    { "cr0", VITRINE_ON_CR, 0, 0, TAKES_NOTHING },
    { "cr3", VITRINE_ON_CR, 0, 3, TAKES_NOTHING },
    { "cr4", VITRINE_ON_CR, 0, 4, TAKES_NOTHING },
    { "cr8", VITRINE_ON_CR, 0, 8, TAKES_NOTHING },
    { "cr", VITRINE_ON_CR, 0, UINT32_MAX, TAKES_NOTHING },
    { "msr", VITRINE_ON_MSR_WRITE, 0, UINT32_MAX, TAKES_INDEX },
    { "rdmsr", VITRINE_ON_MSR_READ, 0, UINT32_MAX, TAKES_INDEX },
    { "int3", VITRINE_ON_INT3, 0, UINT32_MAX, TAKES_NOTHING },
    { "read", VITRINE_ON_ACCESS, VITRINE_READ, UINT32_MAX, TAKES_RANGE },
    { "write", VITRINE_ON_ACCESS, VITRINE_WRITE, UINT32_MAX, TAKES_RANGE },
    { "access", VITRINE_ON_ACCESS, VITRINE_READ | VITRINE_WRITE, UINT32_MAX, TAKES_RANGE },
    { "exec", VITRINE_ON_ACCESS, VITRINE_EXECUTE, UINT32_MAX, TAKES_RANGE },
    { "step", VITRINE_ON_STEP, 0, UINT32_MAX, TAKES_NOTHING },
    { "cpuid", VITRINE_ON_CPUID, 0, UINT32_MAX, TAKES_INDEX },
    { "xsetbv", VITRINE_ON_XSETBV, 0, UINT32_MAX, TAKES_NOTHING },
    { "tables", VITRINE_ON_TABLE, 0, UINT32_MAX, TAKES_NOTHING },
    { "hypercall", VITRINE_ON_HYPERCALL, 0, UINT32_MAX, TAKES_INDEX },
    { "port", VITRINE_ON_PORT, 0, UINT32_MAX, TAKES_INDEX },
    { "exception", VITRINE_ON_EXCEPTION, 0, UINT32_MAX, TAKES_INDEX },
    { "interrupt", VITRINE_ON_INTERRUPT, 0, UINT32_MAX, TAKES_INDEX },
    { "syscall", VITRINE_ON_SYSCALL, 0, UINT32_MAX, TAKES_NOTHING },
};

/* "ADDRESS", "ADDRESS+BYTES", "FIRST-LAST". */
static bool parse_range(char *text, uint64_t *first, uint64_t *last)
{
    char *mark = strpbrk(text, "+-");
    char kind = mark ? *mark : 0;
    if (mark)
        *mark++ = '\0';
    if (!inspect_number(text, false, first) || (mark && !inspect_number(mark, true, last)))
        return false;
    if (kind == '+')
        *last = *first + *last - 1;
    else if (!kind)
        *last = *first;
    return *last >= *first;
}

static bool add_range(struct wish *w, uint64_t first, uint64_t last, uint32_t access)
{
    if (w->n_ranges == PAGES_MAX)
        return false;
    w->range[w->n_ranges++] = (struct vitrine_range){ .first = first, .last = last, .access = access };
    return true;
}

/* Page by page where they are linear addresses. CLI_DONE or a status after a message. */
static int wish_range(struct vitrine_vm *vm, const struct options *o, struct wish *w, uint64_t first, uint64_t last, uint32_t access)
{
    if (!o->is_virtual)
        return add_range(w, first, last, access) ? CLI_DONE : CLI_FAILED;
    for (uint64_t at = first; at >= first && at <= last; at = (at | (PAGE_BYTES - 1)) + 1) {
        struct vitrine_translation t;
        uint64_t end = (at | (PAGE_BYTES - 1)) < last ? (at | (PAGE_BYTES - 1)) : last;
        if (vitrine_vcpu_translate(vm, (uint32_t)o->vcpu, at, &t))
            return inspect_failed("trace", "translate the address");
        if (t.result != VITRINE_WALK_OK)
            return cli_error(CLI_FAILED, "trace", "0x%" PRIx64 " is not mapped; 'vitrine translate' says why", at);
        if (!add_range(w, t.gpa, t.gpa + (end - at), access))
            return cli_error(CLI_FAILED, "trace", "a range may not have more than %u pages with --virtual", PAGES_MAX);
    }
    return CLI_DONE;
}

/* One EVENT. The text is taken apart. */
static int parse_event(struct vitrine_vm *vm, const struct options *o, char *text, struct wish *w)
{
    char *argument = strchr(text, ':');
    const struct event_name *e = event_names, *end = event_names + sizeof event_names / sizeof *event_names;
    uint64_t index, first, last;
    if (argument)
        *argument++ = '\0';
    while (e < end && strcmp(e->name, text))
        e++;
    if (e == end)
        return cli_error(CLI_USAGE, "trace", "there is no event '%s'", text);
    if (argument && e->argument == TAKES_NOTHING)
        return cli_error(CLI_USAGE, "trace", "event '%s' takes no argument", text);
    w->what.kinds = e->kind;
    w->what.first_index = e->index == UINT32_MAX ? 0 : e->index;
    w->what.last_index = e->index;
    if (e->argument == TAKES_RANGE) {
        if (!argument || !parse_range(argument, &first, &last))
            return cli_error(CLI_USAGE, "trace", "event '%s' needs a range: ADDRESS, ADDRESS+BYTES or FIRST-LAST", text);
        return wish_range(vm, o, w, first, last, e->access);
    }
    if (argument) {
        if (!inspect_number(argument, false, &index) || index > UINT32_MAX)
            return cli_error(CLI_USAGE, "trace", "'%s' is not a number", argument);
        w->what.first_index = w->what.last_index = (uint32_t)index;
    }
    return CLI_DONE;
}

static int parse_filter(char *text, struct vitrine_subscription *what)
{
    char *save = NULL;
    for (char *part = strtok_r(text, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        char *value = strchr(part, '=');
        uint64_t n;
        if (!value || !inspect_number(value + 1, false, &n))
            return cli_error(CLI_USAGE, "trace", "'%s' is no filter: vcpu=N, cpl=N or cr3=N", part);
        *value = '\0';
        if (!strcmp(part, "vcpu") && n <= UINT32_MAX) {
            what->flags |= VITRINE_SUBSCRIBE_VCPU;
            what->vcpu = (uint32_t)n;
        } else if (!strcmp(part, "cpl") && n <= 3) {
            what->cpls |= 1u << n;
        } else if (!strcmp(part, "cr3")) {
            what->flags |= VITRINE_SUBSCRIBE_CR3;
            what->cr3 = n;
        } else {
            return cli_error(CLI_USAGE, "trace", "'%s' is no filter: vcpu=N, cpl=N or cr3=N", part);
        }
    }
    return CLI_DONE;
}

static int subscribe_all(struct vitrine_vm *vm, const struct options *o, char *on, const struct vitrine_subscription *filter)
{
    static struct wish w;
    char *save = NULL;
    for (char *part = strtok_r(on, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        w = (struct wish){ .what = *filter };
        int status = parse_event(vm, o, part, &w);
        if (status)
            return status;
        if (vitrine_vm_subscribe(vm, &w.what, w.range, w.n_ranges) < 0)
            return inspect_failed("trace", "subscribe");
    }
    return CLI_DONE;
}

/* ---- printing ---- */

static const char *const kind_names[] = { "cr",     "msr",    "rdmsr",     "int3", "access",    "step",      "cpuid",
                                          "xsetbv", "tables", "hypercall", "port", "exception", "interrupt", "syscall" };
static const char *const table_names[] = { "gdtr", "idtr", "ldtr", "tr" };
static const char *const entry_names[] = { "syscall", "sysenter", "int80" };

static const char *kind_name(const struct vitrine_event *e)
{
    unsigned n = e->kind ? (unsigned)__builtin_ctz(e->kind) : 0;
    return n < sizeof kind_names / sizeof *kind_names ? kind_names[n] : "?";
}

static const char *access_name(uint32_t access)
{
    return access & VITRINE_EXECUTE ? "exec" : access == VITRINE_READ ? "read" : access == VITRINE_WRITE ? "write" : "read+write";
}

static void print_details(const struct vitrine_event *e)
{
    switch (e->kind) {
    case VITRINE_ON_CR:
        printf("cr%" PRIu32 " 0x%" PRIx64 " -> 0x%" PRIx64, e->index, e->old_value, e->value);
        break;
    case VITRINE_ON_XSETBV:
        printf("xcr%" PRIu32 " 0x%" PRIx64 " -> 0x%" PRIx64, e->index, e->old_value, e->value);
        break;
    case VITRINE_ON_MSR_WRITE:
        printf("msr 0x%" PRIx32 " <- 0x%" PRIx64, e->index, e->value);
        break;
    case VITRINE_ON_ACCESS:
        printf("%s 0x%" PRIx64 " gpa 0x%" PRIx64 " %" PRIu32 " bytes", access_name(e->access), e->gva, e->gpa, e->bytes);
        break;
    case VITRINE_ON_TABLE:
        printf("%s %s", e->access & VITRINE_WRITE ? "load" : "store", table_names[e->index & 3]);
        break;
    case VITRINE_ON_PORT:
        if (e->access & VITRINE_READ)
            printf("in 0x%" PRIx32 " %" PRIu32 " bytes", e->index, e->bytes);
        else
            printf("out 0x%" PRIx32 " <- 0x%" PRIx64 " %" PRIu32 " bytes", e->index, e->value, e->bytes);
        break;
    case VITRINE_ON_EXCEPTION:
        printf("exception %" PRIu32 " code 0x%" PRIx64 " 0x%" PRIx64, e->index, e->old_value, e->value);
        break;
    case VITRINE_ON_SYSCALL:
        printf("%s %" PRIu64 " (0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 ")", e->index < 3 ? entry_names[e->index] : "?", e->value, e->gpr[7], e->gpr[6],
               e->gpr[2]);
        break;
    case VITRINE_ON_CPUID:
        printf("cpuid 0x%" PRIx32 " 0x%" PRIx64, e->index, e->value);
        break;
    case VITRINE_ON_INT3:
    case VITRINE_ON_STEP:
        printf("%s", kind_name(e));
        break;
    default:
        printf("%s 0x%" PRIx32, kind_name(e), e->index);
    }
}

static int print_event(const struct options *o, const struct vitrine_event *e)
{
    if (!o->is_json) {
        printf("%" PRIu64 ".%06" PRIu64 " vcpu %" PRIu32 " cpl %" PRIu32 " cr3 0x%" PRIx64 " rip 0x%" PRIx64 "  ", e->time_ns / 1000000000,
               e->time_ns / 1000 % 1000000, e->vcpu, e->cpl, e->cr3, e->rip);
        print_details(e);
        putchar('\n');
        return fflush(stdout) ? cli_error(CLI_FAILED, "trace", "cannot write the output: %s", strerror(errno)) : CLI_DONE;
    }
    json_t *gpr = json_array();
    for (unsigned i = 0; i < 16; i++)
        json_array_append_new(gpr, inspect_hex(e->gpr[i]));
    json_t *j =
        json_pack("{s:s, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "event", kind_name(e), "time", (double)e->time_ns / 1e9, "vcpu",
                  (json_int_t)e->vcpu, "cpl", (json_int_t)e->cpl, "rip", inspect_hex(e->rip), "cr3", inspect_hex(e->cr3), "index", inspect_hex(e->index), "old",
                  inspect_hex(e->old_value), "value", inspect_hex(e->value), "rflags", inspect_hex(e->rflags), "gpr", gpr);
    if (e->kind == VITRINE_ON_ACCESS) {
        json_object_set_new(j, "gva", inspect_hex(e->gva));
        json_object_set_new(j, "gpa", inspect_hex(e->gpa));
    }
    if (e->access)
        json_object_set_new(j, "access", json_string(access_name(e->access)));
    if (e->bytes)
        json_object_set_new(j, "bytes", json_integer(e->bytes));
    return inspect_print_json("trace", j);
}

static int print_all(struct vitrine_vm *vm, const struct options *o)
{
    static struct vitrine_event event[EVENTS_AT_ONCE];
    uint64_t n_printed = 0, dropped = 0;
    int status = CLI_DONE;
    while (!status && (!o->count || n_printed < o->count)) {
        int n = vitrine_vm_next_events(vm, event, EVENTS_AT_ONCE, -1, &dropped);
        if (n < 0)
            return inspect_failed("trace", "go on");
        for (int i = 0; i < n && !status && (!o->count || n_printed < o->count); i++, n_printed++) {
            status = print_event(o, &event[i]);
            if (event[i].question && vitrine_vm_answer(vm, &event[i], VITRINE_CONTINUE, 0) && errno != ESTALE)
                return inspect_failed("trace", "go on");
        }
    }
    if (dropped)
        fprintf(stderr, "%" PRIu64 " events were lost; with --wait none are\n", dropped);
    return status;
}

/* ---- the command ---- */

static int bad_option(int c, const char *text)
{
    return cli_error(CLI_USAGE, "trace", c == ':' ? "option '%s' needs a value" : c == '?' ? "unknown option '%s'" : "'%s' is not a number", text);
}

int trace_main(int argc, char **argv)
{
    static const struct option options[] = {
        { "on", required_argument, NULL, 'o' },   { "if", required_argument, NULL, 'i' }, { "virtual", no_argument, NULL, 'V' },
        { "vcpu", required_argument, NULL, 'v' }, { "wait", no_argument, NULL, 'w' },     { "count", required_argument, NULL, 'n' },
        { "json", no_argument, NULL, 'j' },       { "help", no_argument, NULL, 'h' },     { 0 }
    };
    struct options o = { 0 };
    struct vitrine_subscription filter = { 0 };
    char *on = NULL;
    int status;
    optind = 1;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'h')
            return fputs(usage, stdout) < 0 ? CLI_FAILED : CLI_DONE;
        if (c == 'o')
            on = optarg;
        else if (c == 'V')
            o.is_virtual = true;
        else if (c == 'w')
            o.is_waiting = true;
        else if (c == 'j')
            o.is_json = true;
        else if (c == 'i' && (status = parse_filter(optarg, &filter)))
            return status;
        else if (c == ':' || c == '?' || (c == 'v' && !inspect_number(optarg, false, &o.vcpu)) || (c == 'n' && !inspect_number(optarg, false, &o.count)))
            return bad_option(c, c == 'v' || c == 'n' ? optarg : argv[optind - 1]);
    }
    if (!on)
        return cli_error(CLI_USAGE, "trace", "which events? --on EVENT");
    if (argc - optind != 1)
        return cli_error(CLI_USAGE, "trace", argc == optind ? "which virtual machine?" : "more than one virtual machine");
    filter.flags |= o.is_waiting ? VITRINE_SUBSCRIBE_ASK : 0;
    struct vitrine_vm *vm = inspect_open("trace", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    status = subscribe_all(vm, &o, on, &filter);
    if (!status)
        status = print_all(vm, &o);
    vitrine_vm_close(vm);
    return status;
}
