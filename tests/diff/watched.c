/* SPDX-License-Identifier: MIT */
/* See watched.h. */
#include "watched.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include "compare.h"
#include "expect.h"
#include "gifts.h"
#include "tool.h"

#define EVENTS_KEPT 1024u
#define SUB_PAGE_BYTES 128u

static struct tool_plan plan;
static bool is_on_stepping; /* the VM that runs the case */
static struct expectation expected;
static struct tool_event first_run[EVENTS_KEPT];
static uint8_t before[DATA_BYTES];
static uint64_t n_told, n_denied, n_retried, n_silent, n_by_view;

int watched_init(void)
{
    return guest_watch();
}

bool watched_wants(const struct insn *in)
{
    return in->has_mem || form_is_string(in) || form_is_masked_store(in) || in->category == ZYDIS_CATEGORY_PUSH || in->category == ZYDIS_CATEGORY_POP ||
           form_is_system(in) || in->mnemonic == ZYDIS_MNEMONIC_ENTER || in->mnemonic == ZYDIS_MNEMONIC_LEAVE;
}

/* ---- what is asked for ---- */

static void add_range(uint64_t first, uint64_t bytes, uint32_t access)
{
    plan.range[plan.n_ranges++] = (struct look_range){ first, first + bytes - 1, access };
}

/* A place that the instruction is about to touch; for what has none, some place. */
static uint64_t pick_touched(struct rng *r)
{
    unsigned from = rng_below(r, EXPECT_BYTES);
    for (unsigned i = 0; i < EXPECT_BYTES; i++) {
        unsigned at = (from + i) % EXPECT_BYTES;
        if (expected.may[0][at] || expected.may[1][at])
            return at;
    }
    return rng_below(r, DATA_BYTES);
}

static void plan_data(struct rng *r)
{
    uint32_t access = rng_percent(r, 60) ? WATCH_READ | WATCH_WRITE : rng_percent(r, 50) ? WATCH_READ : WATCH_WRITE;
    unsigned kind = rng_below(r, 100);
    uint64_t at = pick_touched(r);
    if (kind < 40) {
        add_range(guest_data_gpa(), EXPECT_BYTES, access);
    } else if (kind < 55) {
        add_range(guest_data_gpa() + at / PAGE_BYTES * PAGE_BYTES, PAGE_BYTES, access);
    } else if (kind < 75) { /* the part of a page where it happens, or the one beside */
        uint64_t part = at / SUB_PAGE_BYTES + (rng_percent(r, 30) ? rng_below(r, 3) : 1);
        add_range(guest_data_gpa() + (part ? part - 1 : 0) * SUB_PAGE_BYTES, SUB_PAGE_BYTES, access);
    } else {
        uint64_t first = at + rng_below(r, 24);
        add_range(guest_data_gpa() + (first < 12 ? 0 : first - 12), 1 + rng_below(r, 16), access);
    }
}

/* Never the tail: what comes after it if it is denied? */
static void plan_code(struct rng *r, const struct instance *i)
{
    uint64_t gpa = guest_code_gpa() + (i->at - CODE_AT);
    unsigned kind = rng_below(r, 3);
    if (kind == 0)
        add_range(gpa & ~PAGE_OFFSET_MASK, PAGE_BYTES, WATCH_EXECUTE);
    else if (kind == 1)
        add_range(gpa, i->len, WATCH_EXECUTE);
    else if (i->insn[0].len > 1)
        add_range(gpa + 1, i->insn[0].len - 1u, WATCH_EXECUTE);
}

/* Repeated strings may read what they wrote: then it is not known what was there. */
static bool may_give(const struct instance *i)
{
    return !diff_is_system && !i->is_sequence && !(form_is_string(&i->insn[0]) && (i->insn[0].has_f2 || i->insn[0].has_f3));
}

static void plan_gifts(struct rng *r)
{
    plan.n_ranges = 0;
    add_range(guest_data_gpa(), EXPECT_BYTES, rng_percent(r, 50) ? WATCH_READ : WATCH_READ | WATCH_WRITE);
    plan.is_asking = plan.is_giving = true;
    plan.deny_at = TOOL_NEVER;
}

void watched_plan(struct rng *r, const struct instance *i, const struct machine_state *input, bool is_stepping)
{
    struct machine_state at = *input;
    at.rip = i->at;
    plan = (struct tool_plan){ .deny_at = TOOL_NEVER, .deny_first = i->at, .deny_end = i->at + i->len };
    plan.is_asking = rng_percent(r, 60);
    is_on_stepping = is_stepping;
    if (i->is_sequence)
        memset(&expected, 0, sizeof expected);
    else
        expect_insn(&i->insn[0], &at, 2, true, &expected);
    plan_data(r);
    if (diff_is_system && rng_percent(r, 40)) /* descriptors, the TSS, the stack of a delivery */
        add_range(0x9000, 0x5000, WATCH_READ | WATCH_WRITE);
    if (rng_percent(r, 15))
        plan_code(r, i);
    if (rng_percent(r, 30))
        plan.deny_at = rng_below(r, rng_percent(r, 50) ? 1 : 5);
    if (rng_percent(r, 15))
        plan.n_retries = 1 + rng_below(r, 2);
    if (may_give(i) && rng_percent(r, 25))
        plan_gifts(r);
    plan.is_by_view = tool_can_deny(&plan) && rng_percent(r, 60);
}

/* ---- whether it was told right ---- */

static bool wrong(char *text, const struct tool_event *e, const char *what)
{
    const struct watch_event *w = &e->record.event;
    snprintf(text, COMPARE_TEXT_BYTES, "event: %s: access %u of %u bytes at %#llx, rip %#llx", what, w->access, w->bytes, (unsigned long long)w->gva,
             (unsigned long long)e->record.rip);
    return false;
}

static bool is_watched(uint64_t gpa, uint32_t access)
{
    for (unsigned n = 0; n < plan.n_ranges; n++)
        if ((plan.range[n].access & access) && gpa >= plan.range[n].first && gpa <= plan.range[n].last)
            return true;
    return false;
}

static bool meets_range(const struct watch_event *e)
{
    for (uint64_t i = 0; i < e->bytes; i++)
        if (is_watched(e->gpa + i, e->access))
            return true;
    return false;
}

static const struct insn *insn_at(const struct instance *i, uint64_t rip)
{
    for (unsigned k = 0; k < i->n; k++)
        if (i->at + i->offset[k] == rip)
            return &i->insn[k];
    return NULL;
}

/* What holds for every event, whatever the instruction. */
static bool is_sane(const struct instance *i, const struct tool_event *e, char *text)
{
    const struct watch_record *r = &e->record;
    const struct watch_event *w = &r->event;
    bool is_tail = r->rip == i->at + i->len, is_delivery = diff_is_system && w->gva >> 63; /* or may be one, wherever a transfer ended */
    if (!w->bytes || !meets_range(w))
        return wrong(text, e, "beside what is watched");
    if (!insn_at(i, r->rip) && !is_tail && !is_delivery)
        return wrong(text, e, "of no instruction");
    if (e->n_told != 1 + (plan.is_asking ? plan.n_retries : 0))
        return wrong(text, e, "not told as often as it was to be tried again");
    if (w->access == WATCH_EXECUTE)
        return (w->gva == r->rip && w->gpa - guest_code_gpa() == w->gva - CODE_AT) || wrong(text, e, "execution of something else");
    if (is_delivery)
        return w->gva == w->gpa - (1ull << 31) || wrong(text, e, "not the system's");
    if (!w->access || (w->access & WATCH_EXECUTE) || w->gva - DATA_AT != w->gpa - guest_data_gpa() || (w->gva & PAGE_OFFSET_MASK) + w->bytes > PAGE_BYTES)
        return wrong(text, e, "not an access to data");
    return true;
}

/* No byte is told more often than it is touched. Takes what was told from what may be. */
static bool take(const struct tool_event *e, char *text)
{
    const struct watch_event *w = &e->record.event;
    for (unsigned k = 0; k < 2; k++)
        for (uint64_t at = w->gva - DATA_AT; (w->access >> k & 1) && at < w->gva - DATA_AT + w->bytes; at++) {
            if (!expected.may[k][at])
                return wrong(text, e, "not what the instruction does");
            expected.may[k][at]--;
            expected.must[k][at] -= expected.must[k][at] > 0;
        }
    return true;
}

/* Strings, gathers and scatters go from one access to the next. */
static bool is_in_order(const struct tool_event *e, unsigned *at, char *text)
{
    if (expected.n > sizeof expected.order / sizeof expected.order[0])
        return true;
    for (unsigned n = *at; n < expected.n; n++) {
        uint64_t offset = e->record.event.gva - expected.order[n];
        if (offset < 8) {
            *at = offset || (e->record.event.gva + e->record.event.bytes) % PAGE_BYTES ? n + 1 : n; /* the rest is in the next page */
            return true;
        }
    }
    return wrong(text, e, "out of order");
}

static bool is_state_right(const struct insn *in, const struct machine_state *input, const struct tool_event *e, char *text)
{
    uint64_t mask = diff_mode_bits == 32 ? UINT32_MAX : ~0ull;
    if (form_is_string(in))
        return true;
    for (unsigned n = 0; n < GPR_COUNT; n++)
        if ((e->record.gpr[n] ^ input->gpr[n]) & mask)
            return wrong(text, e, compare_gpr_name(n));
    return !((e->record.rflags ^ input->rflags) & RFLAGS_STATUS) || wrong(text, e, "flags");
}

static bool is_all_told(const struct instance *i, char *text)
{
    for (unsigned k = 0; k < 2; k++)
        for (unsigned at = 0; at < EXPECT_BYTES; at++)
            if (expected.must[k][at] && is_watched(guest_data_gpa() + at, k ? WATCH_WRITE : WATCH_READ)) {
                snprintf(text, COMPARE_TEXT_BYTES, "event: none for the %s of data + %#x, rip %#llx", k ? "write" : "read", at, (unsigned long long)i->at);
                return false;
            }
    return true;
}

/* Events of a single instruction. n_done: iterations of a string. */
static bool judge_single(const struct instance *i, const struct machine_state *input, const struct tool_event *e, unsigned n, uint64_t n_done, bool is_complete,
                         char *text)
{
    const struct insn *in = &i->insn[0];
    unsigned n_executed = 0, n_tails = 0, next = 0;
    expect_insn(in, input, n_done, is_complete, &expected);
    for (unsigned k = 0; k < n; k++) {
        bool is_execute = e[k].record.event.access == WATCH_EXECUTE, is_tail = e[k].record.rip != i->at;
        if (!is_sane(i, &e[k], text))
            return false;
        n_executed += is_execute && !is_tail;
        n_tails += is_execute && is_tail;
        if (is_execute || e[k].record.event.gva >> 63)
            continue;
        if (is_tail)
            return wrong(text, &e[k], "of the tail");
        if (!is_state_right(in, input, &e[k], text) || !take(&e[k], text) || (expected.n && !is_in_order(&e[k], &next, text)))
            return false;
    }
    bool has_code = is_watched(guest_code_gpa() + (i->at - CODE_AT), WATCH_EXECUTE), is_string = form_is_string(in);
    if (n_executed < has_code || (n_executed > has_code && !(is_string && has_code)) || n_tails > 1) {
        snprintf(text, COMPARE_TEXT_BYTES, "event: %u of execution, %u of the tail's", n_executed, n_tails);
        return false;
    }
    return !is_complete || is_all_told(i, text);
}

/* ---- sequences: stepped and translated the same is told ---- */

static bool is_same(const struct tool_event *a, const struct tool_event *b)
{
    const struct watch_record *x = &a->record, *y = &b->record;
    return x->rip == y->rip && x->rflags == y->rflags && !memcmp(x->gpr, y->gpr, sizeof x->gpr) && !memcmp(&x->event, &y->event, sizeof x->event) &&
           a->answer == b->answer;
}

static bool judge_sequence(const struct instance *i, const struct tool_event *e, unsigned n, unsigned n_stepped, char *text)
{
    for (unsigned k = 0; k < n; k++) {
        const struct insn *in = insn_at(i, e[k].record.rip);
        struct machine_state st;
        if (!is_sane(i, &e[k], text))
            return false;
        if (k < n_stepped && !is_same(&first_run[k], &e[k]))
            return wrong(text, &e[k], "another one when stepping");
        if (e[k].record.event.access == WATCH_EXECUTE || !in)
            continue;
        memcpy(st.gpr, e[k].record.gpr, sizeof st.gpr);
        st.rip = e[k].record.rip;
        if (in->mem.masked_bytes || form_is_masked_store(in)) /* the masks are not in the record */
            continue;
        expect_insn(in, &st, 1, true, &expected);
        if (!take(&e[k], text))
            return false;
    }
    if (n == n_stepped)
        return true;
    snprintf(text, COMPARE_TEXT_BYTES, "event: %u are told, %u when stepping", n, n_stepped);
    return false;
}

/* ---- a run ---- */

/* On the engine, with nobody watching. The memory afterwards is the "bare CPU's". */
static void run_unwatched(const struct instance *i, const struct machine_state *input, const struct insn *denied, struct machine_state *out)
{
    static uint8_t watched[DATA_BYTES];
    memcpy(watched, guest_data(), DATA_BYTES);
    memcpy(guest_data(), before, DATA_BYTES);
    if (denied) {
        memset(guest_code() + (i->at - CODE_AT), 0x90, denied->len);
        guest_code_changed();
    }
    guest_run(input, out, is_on_stepping);
    if (denied) {
        memcpy(guest_code() + (i->at - CODE_AT), denied->bytes, denied->len);
        guest_code_changed();
    }
    memcpy(native_data(), guest_data(), DATA_BYTES);
    memcpy(guest_data(), watched, DATA_BYTES);
}

static bool is_system_same(const uint64_t *a, const uint64_t *b, char *text)
{
    for (unsigned n = 0; n < GUEST_SYSTEM_WORDS; n++)
        if (a[n] != b[n]) {
            snprintf(text, COMPARE_TEXT_BYTES, "system state: word %u is %#llx, unwatched %#llx", n, (unsigned long long)a[n], (unsigned long long)b[n]);
            return false;
        }
    return true;
}

/* The bare CPU does not do what was denied. */
static void run_native(const struct instance *i, const struct machine_state *input, const struct tool_event *denied, uint64_t n_done, struct machine_state *out)
{
    const struct insn *in = denied ? insn_at(i, denied->record.rip) : NULL;
    struct machine_state changed = *input;
    if (diff_is_system) {
        run_unwatched(i, input, in, out);
        return;
    }
    if (!in) {
        native_run(input, out);
        return;
    }
    uint8_t *code = native_code() + (denied->record.rip - CODE_AT);
    bool is_begun = form_is_string(in) && n_done;
    if (is_begun)
        changed.gpr[GPR_RCX] = n_done;
    else
        memset(code, 0x90, in->len);
    native_run(&changed, out);
    if (is_begun)
        out->gpr[GPR_RCX] = in->addr_bytes == 4 ? (uint32_t)(input->gpr[GPR_RCX] - n_done) : input->gpr[GPR_RCX] - n_done;
    else
        memcpy(code, in->bytes, in->len);
}

static const struct tool_event *find_denied(const struct tool_event *e, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (e[k].answer == WATCH_DENY)
            return &e[k];
    return NULL;
}

static const struct tool_event *run_guest(const struct machine_state *input, bool is_stepping, struct machine_state *out, unsigned *n)
{
    tool_begin(is_stepping, &plan);
    guest_run(input, out, is_stepping);
    return tool_end(n);
}

static void count(const struct tool_event *e, unsigned n)
{
    for (unsigned k = 0; k < n; k++) {
        n_denied += e[k].answer == WATCH_DENY;
        n_retried += e[k].n_told - 1;
    }
    n_told += n;
    n_silent += !n;
    n_by_view += plan.is_by_view;
}

bool watched_run(const struct instance *i, const struct machine_state *input, struct machine_state *native, struct machine_state *guest, char *text)
{
    uint64_t system[2][GUEST_SYSTEM_WORDS];
    unsigned n, n_stepped = 0;
    memcpy(before, guest_data(), DATA_BYTES);
    gifts_begin();
    if (i->is_sequence) {
        const struct tool_event *stepped = run_guest(input, true, guest, &n_stepped);
        memcpy(first_run, stepped, (n_stepped < EVENTS_KEPT ? n_stepped : EVENTS_KEPT) * sizeof *stepped);
        memcpy(guest_data(), before, DATA_BYTES);
    }
    const struct tool_event *e = run_guest(input, is_on_stepping, guest, &n), *denied = find_denied(e, n);
    count(e, n);
    guest_system_end(system[0]);
    const struct insn *in = &i->insn[0];
    uint64_t n_done = denied ? expect_iterations(in, input->gpr[GPR_RCX], denied->record.gpr[GPR_RCX]) : 0;
    if (denied && !(in->has_f2 || in->has_f3))
        n_done = 0;
    run_native(i, input, denied, n_done, native);
    gifts_undo(native_data());
    guest_system_end(system[1]);
    if (diff_is_system && !is_system_same(system[0], system[1], text))
        return false;
    if (i->is_sequence)
        return judge_sequence(i, e, n, n_stepped, text);
    bool is_complete = native->vector == VECTOR_NONE && !denied;
    if (!denied)
        n_done = expect_iterations(in, input->gpr[GPR_RCX], native->gpr[GPR_RCX]);
    if (native->vector != VECTOR_NONE && !(in->has_f2 || in->has_f3))
        n_done = 0;
    return judge_single(i, input, e, n, n_done, is_complete, text);
}

void watched_print(void)
{
    printf("%llu events, %llu questions, %llu denied, %llu tried again, %llu with other data; %llu cases without an event, %llu by denied pages\n",
           (unsigned long long)n_told, (unsigned long long)tool_n_questions(), (unsigned long long)n_denied, (unsigned long long)n_retried,
           (unsigned long long)gifts_count(), (unsigned long long)n_silent, (unsigned long long)n_by_view);
}

bool watched_has_enough(uint64_t n_cases)
{
    return n_told >= n_cases / 2 && tool_n_questions() >= n_cases / 2 && n_denied >= n_cases / 50 && n_retried >= n_cases / 50 &&
           (diff_is_system || gifts_count() >= n_cases / 50) && n_by_view >= n_cases / 10;
}
