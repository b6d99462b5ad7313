/* SPDX-License-Identifier: MIT */
/*
 * See watch.h: questions and answers of a vCPU, and the table of watched pages. What needs no lock is watch_tell.c's. vm.watch.lock is a leaf: whoever holds it
 * waits for no vCPU, so vCPUs may take it in guest mode.
 */
#include "core/watch.h"

#include <stdlib.h>

#include "core/hold.h"
#include "core/timer.h"

/* ---- ranges ---- */

static int by_first(const void *a, const void *b)
{
    const struct watch_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

void watch_ranges_normalise(struct watch_ranges *r)
{
    unsigned n = 0;
    if (!r->n)
        return;
    qsort(r->range, r->n, sizeof *r->range, by_first);
    for (unsigned i = 1; i < r->n; i++) {
        struct watch_range *last = &r->range[n];
        if (r->range[i].first > last->last && r->range[i].first - last->last > 1)
            r->range[++n] = r->range[i];
        else if (r->range[i].last > last->last)
            last->last = r->range[i].last;
    }
    r->n = n + 1;
}

void watch_table_free(struct watch_table *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i < 3; i++)
        free(t->of[i].range);
    free(t);
}

void watch_table_set(struct vm *vm, struct watch_table *t)
{
    struct watch_table *old = atomic_exchange(&vm->watch.table, t);
    if (old || t)
        vm->engine->memory_changed(vm, 0, 0);
    watch_table_free(old);
}

void watch_end(struct vm *vm)
{
    if (vm->watch.ops)
        vm->watch.ops->end(vm);
    watch_table_free(atomic_load(&vm->watch.table));
}

/* ---- questions ---- */

#define SLOW_NS 100000u /* an answer for which no CPU should be kept from others */

/* What does not belong to an instruction: denied, it is dropped. */
static bool is_between(const struct watch_event *e)
{
    return (e->kind & (WATCH_EXCEPTION | WATCH_INTERRUPT | WATCH_INJECTED)) || (e->kind == WATCH_DEBUG && e->index == WATCH_DEBUG_EXCEPTION) ||
           (e->kind == WATCH_VCPU && e->index != WATCH_VCPU_HALTED);
}

enum watch_verdict watch_ask(struct vcpu *v, struct watch_event *e)
{
    struct watch_vcpu *w = &v->watch;
    pthread_mutex_lock(&v->vm->watch.lock);
    atomic_fetch_add(&v->hold.count, 1);        /* before anybody can see the question */
    unsigned n_before = w->waits_for_room != 0; /* a single step has passed that hold by */
    enum watch_raised raised = atomic_load(&v->vm->watch.kinds) & e->kind ? v->vm->watch.ops->raise(v, e, true) : WATCH_RAISED_TOLD;
    unsigned n_now = (w->waits_for_room != 0) + (raised == WATCH_RAISED_ASKED);
    atomic_fetch_sub(&v->hold.count, 1 + n_before - n_now);
    if (raised == WATCH_RAISED_ASKED)
        w->reply.answer = WATCH_CONTINUE;
    else if (raised == WATCH_RAISED_TOLD)
        watch_grant_add(w, e, v->cpu.rip, false); /* told already, should the instruction start again */
    bool is_awake = w->is_awake;
    pthread_mutex_unlock(&v->vm->watch.lock);
    if (is_awake)
        v->vm->watch.ops->await(v);
    return raised == WATCH_RAISED_TOLD ? WATCH_GO : WATCH_WAIT;
}

void watch_note(struct vcpu *v, const struct watch_event *e)
{
    pthread_mutex_lock(&v->vm->watch.lock);
    if (atomic_load(&v->vm->watch.kinds) & e->kind)
        v->vm->watch.ops->raise(v, e, false);
    pthread_mutex_unlock(&v->vm->watch.lock);
}

const struct watch_reply *watch_gift_find(const struct vcpu *v, uint32_t kind, uint32_t index)
{
    const struct watch_vcpu *w = &v->watch;
    for (unsigned i = 0; i < w->n_gifts; i++)
        if (w->gift[i].event.kind == kind && w->gift[i].event.index == index)
            return &w->gift[i].reply;
    return NULL;
}

/* ---- answers ---- */

static bool can_emulate(const struct watch_event *e, const struct watch_reply *r)
{
    switch (e->kind) {
    case WATCH_MSR_READ:
    case WATCH_HYPERCALL:
        return !r->data_bytes;
    case WATCH_PORT:
        return (e->access & WATCH_READ) && r->data_bytes % e->bytes == 0;
    case WATCH_CPUID:
        return r->data_bytes == 16;
    case WATCH_ACCESS:
        return (e->access & (WATCH_READ | WATCH_EXECUTE)) && r->data_bytes;
    default:
        return false;
    }
}

bool watch_can_answer(const struct watch_event *e, const struct watch_reply *r)
{
    if (r->answer == WATCH_CHANGE)
        return e->kind & (WATCH_CR | WATCH_MSR_WRITE | WATCH_XSETBV);
    if (r->answer == WATCH_EMULATE)
        return r->data_bytes <= WATCH_DATA_MAX && can_emulate(e, r);
    return (unsigned)r->answer < WATCH_ANSWERS;
}

/* The strictest of several. */
static bool outranks(enum watch_answer a, enum watch_answer b)
{
    static const uint8_t rank[WATCH_ANSWERS] = {
        [WATCH_CONTINUE] = 0, [WATCH_RETRY] = 1, [WATCH_EMULATE] = 2, [WATCH_CHANGE] = 3, [WATCH_DENY] = 4, [WATCH_INJECT] = 5, [WATCH_CRASH] = 6
    };
    return rank[a] > rank[b];
}

static void deny(struct watch_vcpu *w, const struct watch_event *e)
{
    watch_grant_add(w, e, w->asked.rip, is_between(e));
    if (!is_between(e)) {
        w->is_denied = true;
        w->denied_rip = w->asked.rip;
    }
}

/* Full only for a tool that gives an instruction more than it can touch: then the last one counts. */
static void give(struct watch_vcpu *w, const struct watch_event *e)
{
    unsigned at = w->n_gifts < WATCH_GIFTS_MAX ? w->n_gifts++ : WATCH_GIFTS_MAX - 1;
    w->gift[at] = (struct watch_gift){ .event = *e, .reply = w->reply };
}

static void settle(struct vcpu *v)
{
    struct watch_vcpu *w = &v->watch;
    struct watch_event e = w->asked.event;
    enum watch_answer a = w->reply.answer;
    if (a == WATCH_CHANGE)
        e.value = w->reply.value;
    if (a == WATCH_DENY) {
        deny(w, &e);
    } else if (a == WATCH_CRASH) {
        w->n_grants = w->n_gifts = 0;
        vcpu_request(v, VREQ_TRIPLE_FAULT);
    } else if (a == WATCH_INJECT && !w->reply.injection.is_interrupt) {
        w->n_grants = w->n_gifts = 0;
    } else if (a != WATCH_RETRY) {
        if (a == WATCH_EMULATE)
            give(w, &e);
        watch_grant_add(w, &e, w->asked.rip, false);
    }
    w->is_slow = timer_now_ns() - w->asked.time_ns > SLOW_NS;
    if (w->is_awake)
        atomic_fetch_sub(&v->hold.count, 1);
    else
        hold_release_vcpu(v);
}

void watch_answer(struct vcpu *v, uint64_t mask, const struct watch_reply *reply)
{
    struct watch_vcpu *w = &v->watch;
    mask &= w->waits_for;
    if (!mask)
        return;
    if (outranks(reply->answer, w->reply.answer))
        w->reply = *reply;
    w->waits_for &= ~mask;
    if (!w->waits_for)
        settle(v);
}

void watch_room(struct vcpu *v, uint64_t mask)
{
    struct watch_vcpu *w = &v->watch;
    if (!(w->waits_for_room & mask))
        return;
    w->waits_for_room &= ~mask;
    if (!w->waits_for_room)
        hold_release_vcpu(v);
}
