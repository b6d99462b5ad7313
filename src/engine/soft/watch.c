/* SPDX-License-Identifier: MIT */
/*
 * Where the engine asks and tells those who watch the VM (core/watch.h), and what it does with answers that give data. A helper that gets anything but
 * STEP_NEXT returns it: the instruction starts again later. Called on the vCPU's thread, no lock.
 */
#include "core/view.h"

#include "engine/soft/code.h"

static enum watch_verdict ask(struct soft_vcpu *sv, struct watch_event *e)
{
    enum watch_verdict verdict = watch_tell(&sv->v, e);
    if (verdict != WATCH_UNDECIDED)
        return verdict;
    fp_put(sv);
    return watch_ask(&sv->v, e);
}

static bool must_wait(struct soft_vcpu *sv, struct watch_event *e)
{
    sv->v.watch.is_delivery = false; /* else who puts it back says so */
    return ask(sv, e) == WATCH_WAIT;
}

enum step watch_insn_ask(struct soft_vcpu *sv, struct watch_event *e)
{
    if (!e->bytes)
        e->bytes = sv->insn_bytes;
    if (!must_wait(sv, e))
        return STEP_NEXT;
    sv->v.exit.kind = EXIT_WATCH;
    return STEP_EXIT;
}

enum step watch_access_ask(struct soft_vcpu *sv, gva_t gva, gpa_t gpa, unsigned bytes, unsigned access)
{
    struct watch_event e = { .kind = WATCH_ACCESS, .index = view_of(&sv->v), .access = access, .bytes = bytes, .gva = gva, .gpa = gpa };
    if (!must_wait(sv, &e))
        return STEP_NEXT;
    sv->fault = (struct fault){ .vector = FAULT_WATCH };
    return STEP_FAULT;
}

/* ---- deliveries ---- */

/* The injected exception or interrupt is what is delivered now. */
static bool is_injected(const struct soft_vcpu *sv, enum event_kind kind)
{
    const struct watch_vcpu *w = &sv->v.watch;
    return kind == EVENT_EXTERNAL ? w->has_injected_irq : kind == EVENT_NMI ? w->has_injected_nmi : w->has_injected_exception;
}

void watch_delivery_over(struct soft_vcpu *sv, enum event_kind kind)
{
    struct watch_vcpu *w = &sv->v.watch;
    *(kind == EVENT_EXTERNAL ? &w->has_injected_irq : kind == EVENT_NMI ? &w->has_injected_nmi : &w->has_injected_exception) = false;
}

/* Which kinds of event a delivery is, in the order in which they are told. */
static unsigned kinds_of(const struct soft_vcpu *sv, enum event_kind kind, const struct fault *f, uint32_t out[3])
{
    unsigned n = 0;
    if (is_injected(sv, kind))
        out[n++] = WATCH_INJECTED;
    if (kind == EVENT_EXTERNAL || kind == EVENT_NMI)
        out[n++] = WATCH_INTERRUPT;
    if (kind == EVENT_EXCEPTION && f->vector == VEC_DB)
        out[n++] = WATCH_DEBUG;
    if (kind == EVENT_EXCEPTION)
        out[n++] = WATCH_EXCEPTION;
    return n;
}

static struct watch_event event_of(uint32_t told_as, enum event_kind kind, const struct fault *f)
{
    struct watch_event e = { .kind = told_as, .index = f->vector };
    if (told_as == WATCH_DEBUG)
        e.index = WATCH_DEBUG_EXCEPTION;
    else if (kind == EVENT_EXCEPTION)
        e.old_value = f->code;
    if (kind == EVENT_EXCEPTION && (f->vector == VEC_PF || f->vector == VEC_DB))
        e.value = f->addr;
    return e;
}

enum step watch_delivery_ask(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f)
{
    uint32_t told_as[3];
    unsigned n = kinds_of(sv, kind, f, told_as);
    for (unsigned i = 0; i < n; i++) {
        struct watch_event e = event_of(told_as[i], kind, f);
        if (!watch_is_on(sv, e.kind))
            continue;
        enum watch_verdict verdict = ask(sv, &e);
        if (verdict == WATCH_WAIT) {
            sv->fault = (struct fault){ .vector = FAULT_WATCH };
            return STEP_FAULT;
        }
        if (verdict == WATCH_GO_DROPPED) {
            watch_forget(&sv->v.watch);
            watch_delivery_over(sv, kind);
            return STEP_NEXT;
        }
    }
    return STEP_JUMP;
}

void watch_tell_escalated(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f)
{
    struct watch_event e = event_of(WATCH_INJECTED, EVENT_EXCEPTION, f);
    if (!watch_is_on(sv, WATCH_INJECTED) || !is_injected(sv, kind))
        return;
    fp_put(sv);
    watch_note(&sv->v, &e);
}

/* ---- between instructions ---- */

bool watch_between_ask(struct soft_vcpu *sv, uint32_t index, uint64_t value, bool *is_dropped)
{
    struct watch_event e = { .kind = WATCH_VCPU, .index = index, .value = value };
    *is_dropped = false;
    if (!watch_is_on(sv, WATCH_VCPU))
        return true;
    enum watch_verdict verdict = ask(sv, &e);
    if (verdict == WATCH_WAIT) {
        sv->v.watch.is_delivery = true;
        return false;
    }
    *is_dropped = verdict == WATCH_GO_DROPPED;
    watch_forget(&sv->v.watch);
    return true;
}

void watch_tell_crs(struct soft_vcpu *sv, const uint64_t old[3])
{
    static const uint8_t number[3] = { 0, 3, 4 };
    const uint64_t now[3] = { sv->v.cpu.cr0, sv->v.cpu.cr3, sv->v.cpu.cr4 };
    if (!watch_is_on(sv, WATCH_CR))
        return;
    fp_put(sv);
    for (unsigned i = 0; i < 3; i++) {
        const struct watch_event e = { .kind = WATCH_CR, .index = number[i], .old_value = old[i], .value = now[i] };
        if (old[i] != now[i])
            watch_note(&sv->v, &e);
    }
}

/* ---- gifts ---- */

const struct watch_reply *watch_gift(struct soft_vcpu *sv, uint32_t kind, uint32_t index)
{
    if (!sv->v.watch.n_gifts)
        return NULL;
    fp_put(sv);
    return watch_gift_find(&sv->v, kind, index);
}

static bool is_of_kind(const struct watch_gift *g, bool is_code)
{
    return g->event.kind == WATCH_ACCESS && ((g->event.access & WATCH_EXECUTE) != 0) == is_code;
}

bool watch_meets_gift(const struct soft_vcpu *sv, gva_t gva, unsigned bytes)
{
    for (unsigned i = 0; i < sv->v.watch.n_gifts; i++) {
        const struct watch_gift *g = &sv->v.watch.gift[i];
        if (is_of_kind(g, false) && (g->reply.data_at - gva < bytes || gva - g->reply.data_at < g->reply.data_bytes))
            return true;
    }
    return false;
}

void watch_give(const struct soft_vcpu *sv, gva_t gva, uint8_t *buf, unsigned bytes, bool is_code)
{
    for (unsigned i = 0; i < sv->v.watch.n_gifts; i++) {
        const struct watch_gift *g = &sv->v.watch.gift[i];
        for (unsigned k = 0; is_of_kind(g, is_code) && k < bytes; k++)
            if (gva + k - g->reply.data_at < g->reply.data_bytes)
                buf[k] = g->reply.data[gva + k - g->reply.data_at];
    }
}

bool watch_table_has_page(const struct watch_table *t, gpa_t gpa, unsigned access)
{
    gpa_t first = gpa & ~PAGE_OFFSET_MASK, last = gpa | PAGE_OFFSET_MASK;
    if (access & ACCESS_FETCH)
        return watch_ranges_meet(&t->of[2], first, last);
    return watch_ranges_meet(&t->of[0], first, last) || ((access & ACCESS_WRITE) && watch_ranges_meet(&t->of[1], first, last));
}
