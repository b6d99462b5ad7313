/* SPDX-License-Identifier: MIT */
/*
 * `vitrine trace`: subscribes to the events that the user names, prints a line for each as it comes, and answers it. How that is written on the command line is
 * trace_words.c's; see vitrine/inspect.h for what it means.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/inspect.h"
#include "cli/trace.h"

#define EVENTS_AT_ONCE 64

static const char usage[] =
    "usage: vitrine trace --on EVENT[,EVENT...] [--if FILTER[,FILTER...]] [--virtual] [--vcpu N] [--wait] [--do ANSWER] [--count N] [--json] VM\n\n"
    "Prints a line for each event of a virtual machine, until --count N were printed or it is interrupted. EVENT:\n"
    "  cr0 cr3 cr4 cr8 cr       a control register is written\n"
    "  msr[:N] rdmsr[:N]        an MSR is written, read\n"
    "  read:RANGE write:RANGE access:RANGE exec:RANGE\n"
    "                           guest memory is read, written, either, an instruction there is executed\n"
    "  syscall sysret           a program calls its kernel, the kernel returns by SYSRET or SYSEXIT\n"
    "  exception[:VECTOR] interrupt[:VECTOR] int3 int1 debug\n"
    "                           about to be delivered; debug is any #DB: breakpoints, single steps, INT1\n"
    "  cpuid[:LEAF] hypercall[:N] port[:N] xsetbv tables step\n"
    "                           such an instruction; tables: GDTR, IDTR, LDTR, TR loaded or stored; step: any\n"
    "  flush                    the TLB is flushed: INVLPG, INVPCID, CR0, CR3, CR4, by request of another CPU\n"
    "  vcpu halt                a CPU starts, is reset, paused or halts; only the last\n"
    "  injected[:VECTOR]        what a tool injected is about to be delivered\n"
    "  end                      the machine goes\n"
    "RANGE is ADDRESS, ADDRESS+BYTES or FIRST-LAST: guest-physical, with --virtual linear by the page tables of vCPU N (0) now.\n"
    "FILTER, evaluated before the virtual machine is held up: vcpu=N, cpl=N, cr3=N, rip=RANGE (linear, of the instruction), value=N or value=N/MASK (what the\n"
    "line says behind -> or <-), every=N (one in so many).\n"
    "Without --wait, events that come faster than they can be printed are lost, and counted at the end; with it each one waits until it was printed, and then\n"
    "for ANSWER: continue; deny (the instruction is skipped, an exception dropped); change=N (of cr, msr, xsetbv); give=N (what rdmsr, port input or "
    "hypercall\n"
    "get); data=HEX (what reads, or is executed, or cpuid's 16 bytes); inject=VECTOR[:CODE[:ADDRESS]] (an exception in its place); interrupt=VECTOR; crash.\n";

/* ---- printing ---- */

static const char *const kind_names[] = { "cr",   "msr",       "rdmsr",     "int3",    "access", "step",  "cpuid", "xsetbv", "tables",   "hypercall",
                                          "port", "exception", "interrupt", "syscall", "sysret", "flush", "debug", "vcpu",   "injected", "end" };
static const char *const table_names[] = { "gdtr", "idtr", "ldtr", "tr" };
static const char *const entry_names[] = { "syscall", "sysenter", "int80" };
static const char *const return_names[] = { "sysret", "sysexit" };
static const char *const flush_names[] = { "invlpg", "invpcid", "cr0", "cr3", "cr4", "by request" };
static const char *const change_names[] = { "created", "paused", "halts", "reset", "started" };

#define NAME_OF(names, index) ((index) < sizeof(names) / sizeof *(names) ? (names)[index] : "?")

static const char *kind_name(const struct vitrine_event *e)
{
    unsigned n = e->kind ? (unsigned)__builtin_ctz(e->kind) : 0;
    return n < sizeof kind_names / sizeof *kind_names ? kind_names[n] : "?";
}

static const char *access_name(uint32_t access)
{
    return access & VITRINE_EXECUTE ? "exec" : access == VITRINE_READ ? "read" : access == VITRINE_WRITE ? "write" : "read+write";
}

static void print_flush(const struct vitrine_event *e)
{
    printf("flush %s", NAME_OF(flush_names, e->index));
    if (e->index == VITRINE_FLUSH_INVLPG)
        printf(" 0x%" PRIx64, e->value);
    else if (e->index == VITRINE_FLUSH_INVPCID)
        printf(" type %" PRIu64 " pcid 0x%" PRIx64 " 0x%" PRIx64, e->old_value & 0xffff, e->old_value >> 16, e->value);
    else if (e->index != VITRINE_FLUSH_PARAVIRTUAL)
        printf(" 0x%" PRIx64 " -> 0x%" PRIx64, e->old_value, e->value);
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
        printf("msr 0x%" PRIx32 " 0x%" PRIx64 " -> 0x%" PRIx64, e->index, e->old_value, e->value);
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
    case VITRINE_ON_INJECTED:
        printf("%s %" PRIu32 " code 0x%" PRIx64 " 0x%" PRIx64, kind_name(e), e->index, e->old_value, e->value);
        break;
    case VITRINE_ON_SYSRET:
        printf("%s 0x%" PRIx64, NAME_OF(return_names, e->index), e->value);
        break;
    case VITRINE_ON_FLUSH:
        print_flush(e);
        break;
    case VITRINE_ON_DEBUG:
        printf("%s 0x%" PRIx64, e->index ? "int1" : "debug", e->value);
        break;
    case VITRINE_ON_VCPU:
        printf("vcpu %s", NAME_OF(change_names, e->index));
        if (e->index == VITRINE_VCPU_STARTED)
            printf(" at vector 0x%" PRIx64, e->value);
        break;
    case VITRINE_ON_SYSCALL:
        printf("%s %" PRIu64 " (0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 ")", NAME_OF(entry_names, e->index), e->value, e->gpr[7], e->gpr[6], e->gpr[2]);
        break;
    case VITRINE_ON_CPUID:
        printf("cpuid 0x%" PRIx32 " 0x%" PRIx64, e->index, e->value);
        break;
    case VITRINE_ON_INT3:
    case VITRINE_ON_STEP:
    case VITRINE_ON_END:
        printf("%s", kind_name(e));
        break;
    default:
        printf("%s 0x%" PRIx32, kind_name(e), e->index);
    }
}

static int print_event(const struct trace_options *o, const struct vitrine_event *e)
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

/* Data for memory begin where the access does. */
static int answer(struct vitrine_vm *vm, const struct trace_options *o, const struct vitrine_event *e)
{
    struct vitrine_reply reply = o->reply;
    reply.data_at = e->gva;
    if (!e->question || !vitrine_vm_reply(vm, e, &reply) || errno == ESTALE)
        return CLI_DONE;
    if (errno == EINVAL)
        return cli_error(CLI_FAILED, "trace", "event '%s' cannot be answered so", kind_name(e));
    return inspect_failed("trace", "go on");
}

static int print_all(struct vitrine_vm *vm, const struct trace_options *o)
{
    static struct vitrine_event event[EVENTS_AT_ONCE];
    uint64_t n_printed = 0, dropped = 0;
    int status = CLI_DONE;
    bool has_ended = false;
    while (!status && !has_ended && (!o->count || n_printed < o->count)) {
        int n = vitrine_vm_next_events(vm, event, EVENTS_AT_ONCE, -1, &dropped);
        if (n < 0)
            return inspect_failed("trace", "go on");
        for (int i = 0; i < n && !status && (!o->count || n_printed < o->count); i++, n_printed++) {
            status = print_event(o, &event[i]);
            if (!status)
                status = answer(vm, o, &event[i]);
            has_ended |= event[i].kind == VITRINE_ON_END;
        }
    }
    if (dropped)
        fprintf(stderr, "%" PRIu64 " events were lost; with --wait none are\n", dropped);
    return status;
}

/* ---- the command ---- */

int trace_main(int argc, char **argv)
{
    static const struct option options[] = { { "on", required_argument, NULL, 'o' }, { "if", required_argument, NULL, 'i' },
                                             { "virtual", no_argument, NULL, 'V' },  { "vcpu", required_argument, NULL, 'v' },
                                             { "wait", no_argument, NULL, 'w' },     { "count", required_argument, NULL, 'n' },
                                             { "json", no_argument, NULL, 'j' },     { "do", required_argument, NULL, 'd' },
                                             { "help", no_argument, NULL, 'h' },     { 0 } };
    struct trace_options o = { 0 };
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
        else if (c == 'd')
            o.is_waiting = true;
        if ((c == 'i' && (status = trace_parse_filter(optarg, &filter))) || (c == 'd' && (status = trace_parse_answer(optarg, &o.reply))))
            return status;
        if (c == 'v' && inspect_vcpu("trace", optarg, &o.vcpu))
            return CLI_USAGE;
        if (c == 'n' && !inspect_number(optarg, false, &o.count))
            return cli_error(CLI_USAGE, "trace", "'%s' is not a number", optarg);
        if (c == ':' || c == '?')
            return inspect_bad_option("trace", c, argv[optind - 1]);
    }
    if (!on)
        return cli_error(CLI_USAGE, "trace", "which events? --on EVENT");
    if (argc - optind != 1)
        return cli_error(CLI_USAGE, "trace", argc == optind ? "which virtual machine?" : "more than one virtual machine");
    filter.flags |= o.is_waiting ? VITRINE_SUBSCRIBE_ASK : 0;
    struct vitrine_vm *vm = inspect_open("trace", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    status = trace_subscribe(vm, &o, on, &filter);
    if (!status)
        status = print_all(vm, &o);
    vitrine_vm_close(vm);
    return status;
}
