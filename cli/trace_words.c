/* SPDX-License-Identifier: MIT */
/*
 * How events, filters and answers are written on the command line of `vitrine trace`: a table of each, see vitrine/inspect.h for what they mean. Texts are
 * taken apart where they are. Functions that return a status have said what was wrong.
 */
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>

#include "cli/cli.h"
#include "cli/inspect.h"
#include "cli/trace.h"

#define PAGES_MAX 4096u
#define PAGE_BYTES 4096ull

struct wish {
    struct vitrine_subscription what;
    struct vitrine_range range[PAGES_MAX];
    unsigned n_ranges;
};

/* ---- events ---- */

enum argument { TAKES_NOTHING, TAKES_INDEX, TAKES_RANGE };

static const struct event_name {
    const char *name;
    uint32_t kind, access, index; /* index: UINT32_MAX is all */
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
    { "sysret", VITRINE_ON_SYSRET, 0, UINT32_MAX, TAKES_NOTHING },
    { "flush", VITRINE_ON_FLUSH, 0, UINT32_MAX, TAKES_NOTHING },
    { "debug", VITRINE_ON_DEBUG, 0, UINT32_MAX, TAKES_NOTHING },
    { "int1", VITRINE_ON_DEBUG, 0, 1, TAKES_NOTHING },
    { "vcpu", VITRINE_ON_VCPU, 0, UINT32_MAX, TAKES_NOTHING },
    { "halt", VITRINE_ON_VCPU, 0, VITRINE_VCPU_HALTS, TAKES_NOTHING },
    { "injected", VITRINE_ON_INJECTED, 0, UINT32_MAX, TAKES_INDEX },
    { "end", VITRINE_ON_END, 0, UINT32_MAX, TAKES_NOTHING },
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
static int wish_range(struct vitrine_vm *vm, const struct trace_options *o, struct wish *w, uint64_t first, uint64_t last, uint32_t access)
{
    if (!o->is_virtual)
        return add_range(w, first, last, access) ? CLI_DONE : CLI_FAILED;
    for (uint64_t at = first; at >= first && at <= last; at = (at | (PAGE_BYTES - 1)) + 1) {
        struct vitrine_translation t;
        uint64_t end = (at | (PAGE_BYTES - 1)) < last ? (at | (PAGE_BYTES - 1)) : last;
        if (vitrine_vcpu_translate(vm, o->vcpu, at, &t))
            return inspect_failed("trace", "translate the address");
        if (t.result != VITRINE_WALK_OK)
            return cli_error(CLI_FAILED, "trace", "0x%" PRIx64 " is not mapped; 'vitrine translate' says why", at);
        if (!add_range(w, t.gpa, t.gpa + (end - at), access))
            return cli_error(CLI_FAILED, "trace", "a range may not have more than %u pages with --virtual", PAGES_MAX);
    }
    return CLI_DONE;
}

/* One EVENT. The text is taken apart. */
static int parse_event(struct vitrine_vm *vm, const struct trace_options *o, char *text, struct wish *w)
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

int trace_subscribe(struct vitrine_vm *vm, const struct trace_options *o, char *on, const struct vitrine_subscription *filter)
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

/* ---- filters ---- */

static bool filter_vcpu(char *value, struct vitrine_subscription *what)
{
    uint64_t n;
    what->flags |= VITRINE_SUBSCRIBE_VCPU;
    if (!inspect_number(value, false, &n) || n > UINT32_MAX)
        return false;
    what->vcpu = (uint32_t)n;
    return true;
}

static bool filter_cpl(char *value, struct vitrine_subscription *what)
{
    uint64_t n;
    if (!inspect_number(value, false, &n) || n > 3)
        return false;
    what->cpls |= 1u << n;
    return true;
}

static bool filter_cr3(char *value, struct vitrine_subscription *what)
{
    what->flags |= VITRINE_SUBSCRIBE_CR3;
    return inspect_number(value, false, &what->cr3);
}

static bool filter_rip(char *value, struct vitrine_subscription *what)
{
    what->flags |= VITRINE_SUBSCRIBE_RIP;
    return parse_range(value, &what->first_rip, &what->last_rip);
}

/* "VALUE" or "VALUE/MASK". */
static bool filter_value(char *value, struct vitrine_subscription *what)
{
    char *mask = strchr(value, '/');
    if (mask)
        *mask++ = '\0';
    what->value_mask = UINT64_MAX;
    return inspect_number(value, false, &what->value) && (!mask || inspect_number(mask, false, &what->value_mask)) && !(what->value & ~what->value_mask);
}

static bool filter_every(char *value, struct vitrine_subscription *what)
{
    return inspect_number(value, false, &what->every) && what->every;
}

static const struct filter_name {
    const char *name;
    bool (*parse)(char *value, struct vitrine_subscription *what);
} filter_names[] = { { "vcpu", filter_vcpu }, { "cpl", filter_cpl },     { "cr3", filter_cr3 },
                     { "rip", filter_rip },   { "value", filter_value }, { "every", filter_every } };

int trace_parse_filter(char *text, struct vitrine_subscription *what)
{
    char *save = NULL;
    for (char *part = strtok_r(text, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        char *value = strchr(part, '=');
        const struct filter_name *f = filter_names, *end = filter_names + sizeof filter_names / sizeof *filter_names;
        if (value)
            *value++ = '\0';
        while (f < end && strcmp(f->name, part))
            f++;
        if (f == end || !value)
            return cli_error(CLI_USAGE, "trace", "'%s' is no filter: vcpu=N, cpl=N, cr3=N, rip=RANGE, value=N/MASK or every=N", part);
        if (!f->parse(value, what))
            return cli_error(CLI_USAGE, "trace", "filter '%s' does not take '%s'", part, value);
    }
    return CLI_DONE;
}

/* ---- answers ---- */

static bool answer_value(char *value, struct vitrine_reply *r)
{
    return value && inspect_number(value, false, &r->value);
}

static bool answer_bytes(char *value, struct vitrine_reply *r)
{
    int n = value ? inspect_bytes(value, r->data, VITRINE_DATA_MAX) : -1;
    r->data_bytes = n > 0 ? (uint32_t)n : 0;
    return n > 0;
}

/* "VECTOR", "VECTOR:CODE" or "VECTOR:CODE:ADDRESS". */
static bool answer_exception(char *value, struct vitrine_reply *r)
{
    uint64_t part[3] = { 0 };
    unsigned n = 0;
    char *save = NULL;
    for (char *text = value ? strtok_r(value, ":", &save) : NULL; text; text = strtok_r(NULL, ":", &save), n++)
        if (n == 3 || !inspect_number(text, false, &part[n]))
            return false;
    r->injection =
        (struct vitrine_injection){ .vector = (uint32_t)part[0], .has_code = n > 1, .code = (uint32_t)part[1], .has_address = n > 2, .address = part[2] };
    return n && part[0] <= UINT8_MAX && part[1] <= UINT32_MAX;
}

static bool answer_interrupt(char *value, struct vitrine_reply *r)
{
    return answer_exception(value, r) && (r->injection.is_interrupt = !r->injection.has_code);
}

static bool answer_plain(char *value, struct vitrine_reply *r)
{
    (void)r;
    return !value;
}

static const struct answer_name {
    const char *name;
    enum vitrine_answer answer;
    bool (*parse)(char *value, struct vitrine_reply *r);
} answer_names[] = {
    { "continue", VITRINE_CONTINUE, answer_plain }, { "deny", VITRINE_DENY, answer_plain },
    { "crash", VITRINE_CRASH, answer_plain },       { "change", VITRINE_CHANGE, answer_value },
    { "give", VITRINE_EMULATE, answer_value },      { "data", VITRINE_EMULATE, answer_bytes },
    { "inject", VITRINE_INJECT, answer_exception }, { "interrupt", VITRINE_INJECT, answer_interrupt },
};

int trace_parse_answer(char *text, struct vitrine_reply *out)
{
    char *value = strchr(text, '=');
    const struct answer_name *a = answer_names, *end = answer_names + sizeof answer_names / sizeof *answer_names;
    if (value)
        *value++ = '\0';
    while (a < end && strcmp(a->name, text))
        a++;
    if (a == end)
        return cli_error(CLI_USAGE, "trace",
                         "'%s' is no answer: continue, deny, crash, change=N, give=N, data=HEX, inject=VECTOR[:CODE[:ADDRESS]] or interrupt=VECTOR", text);
    *out = (struct vitrine_reply){ .answer = a->answer };
    return a->parse(value, out) ? CLI_DONE : cli_error(CLI_USAGE, "trace", "answer '%s' does not take '%s'", text, value ? value : "");
}
