/* SPDX-License-Identifier: MIT */
/*
 * `vitrine list` and `info`: what there is, in words and columns or as one line of JSON.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/inspect.h"

#define VMS_MAX 256
#define SLOTS_MAX 2048
#define VCPUS_MAX 64
#define ENDPOINTS_MAX 64

static const char *const activities[] = { "in its VMM", "running", "halted", "waits for SIPI" };

/* `vitrine COMMAND [--json] [VM]`: false after a message, whose status is in *status. */
static bool parse(int argc, char **argv, const char *usage, int n_arguments, bool *is_json, int *status)
{
    static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { "help", no_argument, NULL, 'h' }, { 0 } };
    optind = 1;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'j') {
            *is_json = true;
            continue;
        }
        if (c == 'h')
            *status = fputs(usage, stdout) < 0 ? CLI_FAILED : CLI_DONE;
        else
            *status = inspect_bad_option(argv[0], c, argv[optind - 1]);
        return false;
    }
    if (argc - optind == n_arguments)
        return true;
    *status = argc - optind < n_arguments ? cli_error(CLI_USAGE, argv[0], "which virtual machine?")
                                          : cli_error(CLI_USAGE, argv[0], "unexpected argument '%s'", argv[optind + n_arguments]);
    return false;
}

static json_t *vm_json(const struct vitrine_vm_info *i)
{
    return json_pack("{s:s#, s:I, s:I, s:s, s:I, s:I, s:I, s:b, s:f, s:I}", "name", i->name, strnlen(i->name, sizeof i->name), "pid", (json_int_t)i->pid,
                     "number", (json_int_t)i->number, "engine", i->engine, "vcpus", (json_int_t)i->n_vcpus, "slots", (json_int_t)i->n_slots, "memory_bytes",
                     (json_int_t)i->memory_bytes, "paused", (int)i->is_paused, "started", (double)i->started_ns / 1e9, "views", (json_int_t)i->n_views);
}

int list_main(int argc, char **argv)
{
    static const char usage[] = "usage: vitrine list [--json]\n\nShows the virtual machines of this user, or of all users to root.\n";
    struct vitrine_vm_info vm[VMS_MAX];
    bool is_json = false;
    int status;
    if (!parse(argc, argv, usage, 0, &is_json, &status))
        return status;
    int n = vitrine_vm_list(vm, VMS_MAX);
    if (n < 0)
        return inspect_failed("list", "look for virtual machines");
    json_t *all = json_array();
    char size[32];
    if (!is_json && n)
        printf("%8s %-20s %6s %10s  %s\n", "PID", "NAME", "VCPUS", "MEMORY", "STATE");
    for (int i = 0; i < n && i < VMS_MAX; i++) {
        if (is_json)
            json_array_append_new(all, vm_json(&vm[i]));
        else
            printf("%8" PRIu32 " %-20s %6" PRIu32 " %10s  %s\n", vm[i].pid, vm[i].name, vm[i].n_vcpus, inspect_size(vm[i].memory_bytes, size),
                   vm[i].is_paused ? "paused" : "running");
    }
    if (is_json)
        return inspect_print_json("list", all);
    json_decref(all);
    return CLI_DONE;
}

/* ---- info ---- */

struct overview {
    struct vitrine_vm_info vm;
    struct vitrine_slot slot[SLOTS_MAX];
    struct vitrine_vcpu_info vcpu[VCPUS_MAX];
    struct vitrine_endpoint endpoint[ENDPOINTS_MAX];
    int n_slots, n_vcpus, n_endpoints;
};

static const char *const counter_names[] = {
    [VITRINE_COUNT_EXITS] = "exits",
    [VITRINE_COUNT_IO] = "io",
    [VITRINE_COUNT_MMIO] = "mmio",
    [VITRINE_COUNT_HALTS] = "halts",
    [VITRINE_COUNT_HYPERCALLS] = "hypercalls",
    [VITRINE_COUNT_REQUESTS] = "requests",
    [VITRINE_COUNT_SIGNALS] = "signals",
    [VITRINE_COUNT_IRQ_WINDOWS] = "irq_windows",
    [VITRINE_COUNT_IRQS] = "irqs",
    [VITRINE_COUNT_NMIS] = "nmis",
    [VITRINE_COUNT_SINGLE_INSNS] = "single_insns",
    [VITRINE_COUNT_INSN_FAILURES] = "insn_failures",
    [VITRINE_COUNT_TLB_FLUSHES] = "tlb_flushes",
    [VITRINE_COUNT_INVLPGS] = "invlpgs",
    [VITRINE_COUNT_PAGE_FAULTS] = "page_faults",
    [VITRINE_COUNT_HALT_WAKEUPS] = "halt_wakeups",
    [VITRINE_COUNT_HALTED_NS] = "halted_ns",
};
#define N_COUNTERS (sizeof counter_names / sizeof *counter_names)

static const char *const endpoint_states[] = { "connecting", "connected", "leaving", "?" };

static json_t *endpoint_json(const struct vitrine_endpoint *e)
{
    const char dialect[] = { (char)e->dialect, 0 };
    return json_pack("{s:s#, s:s, s:s?, s:b, s:I, s:f, s:s#, s:f}", "kvmi", e->where, strnlen(e->where, sizeof e->where), "state",
                     endpoint_states[e->state & 3], "dialect", e->dialect ? dialect : NULL, "key", (int)e->has_key, "connections", (json_int_t)e->n_connections,
                     "since", (double)e->since_ns / 1e9, "error", e->error, strnlen(e->error, sizeof e->error), "error_at", (double)e->error_ns / 1e9);
}

static json_t *overview_json(const struct overview *o)
{
    json_t *vm = vm_json(&o->vm), *slots = json_array(), *vcpus = json_array(), *tools = json_array();
    for (int i = 0; i < o->n_slots; i++) {
        const struct vitrine_slot *s = &o->slot[i];
        json_array_append_new(slots, json_pack("{s:I, s:o, s:I, s:o, s:b, s:b, s:b, s:s}", "id", (json_int_t)s->id, "gpa", inspect_hex(s->gpa), "bytes",
                                               (json_int_t)s->bytes, "host", inspect_hex(s->host), "readonly", (int)(s->flags & VITRINE_SLOT_READONLY),
                                               "log_dirty", (int)(s->flags & VITRINE_SLOT_LOG_DIRTY), "tools", (int)(s->flags & VITRINE_SLOT_TOOLS), "share",
                                               inspect_share_word(s)));
    }
    for (int i = 0; i < o->n_vcpus; i++) {
        const struct vitrine_vcpu_info *c = &o->vcpu[i];
        json_t *counters = json_object();
        for (unsigned k = 0; k < N_COUNTERS; k++)
            json_object_set_new(counters, counter_names[k], json_integer((json_int_t)c->counter[k]));
        json_array_append_new(vcpus, json_pack("{s:I, s:s, s:b, s:I, s:o, s:o, s:o}", "id", (json_int_t)c->id, "activity", activities[c->activity & 3], "held",
                                               (int)c->is_held, "mode", (json_int_t)c->mode, "rip", inspect_hex(c->rip), "cr3", inspect_hex(c->cr3), "counters",
                                               counters));
    }
    for (int i = 0; i < o->n_endpoints; i++)
        json_array_append_new(tools, endpoint_json(&o->endpoint[i]));
    json_object_set_new(vm, "slot", slots);
    json_object_set_new(vm, "tool", tools);
    json_object_set_new(vm, "vcpu", vcpus);
    return vm;
}

static const char *time_text(uint64_t ns, char text[32])
{
    time_t seconds = (time_t)(ns / 1000000000);
    struct tm tm;
    if (!localtime_r(&seconds, &tm) || !strftime(text, 32, "%F %T", &tm))
        *text = '\0';
    return text;
}

static void print_endpoint(const struct vitrine_endpoint *e)
{
    char when[32];
    printf("%.*s\n  %s since %s", (int)sizeof e->where, e->where, endpoint_states[e->state & 3], time_text(e->since_ns, when));
    if (e->dialect)
        printf(", dialect %c", e->dialect);
    printf(", %" PRIu32 " connections%s\n", e->n_connections, e->has_key ? ", with a key" : "");
    if (e->error_ns)
        printf("  last: %.*s (%s)\n", (int)sizeof e->error, e->error, time_text(e->error_ns, when));
}

static void print_overview(const struct overview *o)
{
    char size[32], when[32];
    time_text(o->vm.started_ns, when);
    printf("%s, pid %" PRIu32 ", %s since %s\nengine %s, %" PRIu32 " vCPUs, memory %s\n\n", o->vm.name, o->vm.pid,
           o->vm.is_paused ? "paused; exists" : "running", when, o->vm.engine, o->vm.n_vcpus, inspect_size(o->vm.memory_bytes, size));
    if (o->vm.n_views)
        printf("%" PRIu32 " views of memory, made by tools\n\n", o->vm.n_views);
    printf("%-5s %-18s %12s  %-14s %s\n", "SLOT", "GUEST-PHYSICAL", "SIZE", "AT", "");
    for (int i = 0; i < o->n_slots; i++) {
        const struct vitrine_slot *s = &o->slot[i];
        printf("%-5" PRIu32 " 0x%-16" PRIx64 " %12s  0x%-12" PRIx64 "%s%s%s %s\n", s->id & 0xffff, s->gpa, inspect_size(s->bytes, size), s->host,
               s->flags & VITRINE_SLOT_READONLY ? " read-only" : "", s->flags & VITRINE_SLOT_LOG_DIRTY ? " logs writes" : "",
               s->id >> 16                     ? " SMM"
               : s->flags & VITRINE_SLOT_TOOLS ? " a tool's"
                                               : "",
               inspect_share_sentence(s));
    }
    printf("\n%-5s %-15s %5s %-18s %-18s %10s %10s %10s\n", "VCPU", "STATE", "MODE", "RIP", "CR3", "IO", "MMIO", "IRQS");
    for (int i = 0; i < o->n_vcpus; i++) {
        const struct vitrine_vcpu_info *c = &o->vcpu[i];
        printf("%-5" PRIu32 " %-15s %5" PRIu32 " 0x%-16" PRIx64 " 0x%-16" PRIx64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 "\n", c->id,
               c->is_held ? "held" : activities[c->activity & 3], c->mode, c->rip, c->cr3, c->counter[VITRINE_COUNT_IO], c->counter[VITRINE_COUNT_MMIO],
               c->counter[VITRINE_COUNT_IRQS]);
    }
    if (o->n_endpoints)
        printf("\nKVMI\n");
    for (int i = 0; i < o->n_endpoints; i++)
        print_endpoint(&o->endpoint[i]);
}

static bool overview_get(struct vitrine_vm *vm, struct overview *o)
{
    if (vitrine_vm_info(vm, &o->vm))
        return false;
    o->n_slots = vitrine_vm_slots(vm, o->slot, SLOTS_MAX);
    o->n_vcpus = o->n_slots < 0 ? -1 : vitrine_vm_vcpus(vm, o->vcpu, VCPUS_MAX);
    o->n_endpoints = o->n_vcpus < 0 ? -1 : vitrine_vm_endpoints(vm, o->endpoint, ENDPOINTS_MAX);
    if (o->n_slots > SLOTS_MAX)
        o->n_slots = SLOTS_MAX;
    if (o->n_vcpus > VCPUS_MAX)
        o->n_vcpus = VCPUS_MAX;
    if (o->n_endpoints > ENDPOINTS_MAX)
        o->n_endpoints = ENDPOINTS_MAX;
    return o->n_endpoints >= 0;
}

int info_main(int argc, char **argv)
{
    static const char usage[] = "usage: vitrine info [--json] VM\n\nShows what a virtual machine consists of: memory, CPUs, counters. VM is a name, a pid, or "
                                "the beginning of a name.\n";
    static struct overview o;
    bool is_json = false;
    int status;
    if (!parse(argc, argv, usage, 1, &is_json, &status))
        return status;
    struct vitrine_vm *vm = inspect_open("info", argv[optind]);
    if (!vm)
        return CLI_FAILED;
    bool is_there = overview_get(vm, &o);
    int error = errno;
    vitrine_vm_close(vm);
    errno = error;
    if (!is_there)
        return inspect_failed("info", "look into the virtual machine");
    if (is_json)
        return inspect_print_json("info", overview_json(&o));
    print_overview(&o);
    return CLI_DONE;
}
