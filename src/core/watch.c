/* SPDX-License-Identifier: MIT */
/*
 * See watch.h: questions and answers of a vCPU, and the table of watched pages. What needs no lock is watch_tell.c's. vm.watch.lock is a leaf: whoever holds it
 * waits for no vCPU, so vCPUs may take it in guest mode.
 */
#include "core/watch.h"

#include <stdlib.h>

#include "core/hold.h"

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

enum watch_verdict watch_ask(struct vcpu *v, struct watch_event *e)
{
    struct watch_vcpu *w = &v->watch;
    pthread_mutex_lock(&v->vm->watch.lock);
    atomic_fetch_add(&v->hold.count, 1); /* before anybody can see the question */
    bool must_wait = (atomic_load(&v->vm->watch.kinds) & e->kind) && v->vm->watch.ops->raise(v, e);
    if (must_wait) {
        w->answer = WATCH_CONTINUE;
    } else {
        atomic_fetch_sub(&v->hold.count, 1);
        watch_grant_add(w, e, v->cpu.rip, false); /* told already, should the instruction start again */
    }
    pthread_mutex_unlock(&v->vm->watch.lock);
    return must_wait ? WATCH_WAIT : WATCH_GO;
}

/* ---- answers ---- */

static bool is_delivery(const struct watch_event *e)
{
    return e->kind & (WATCH_EXCEPTION | WATCH_INTERRUPT);
}

/* The strictest of several: denied, changed, tried again. */
static bool outranks(enum watch_answer a, enum watch_answer b)
{
    static const uint8_t rank[WATCH_ANSWERS] = { [WATCH_CONTINUE] = 0, [WATCH_RETRY] = 1, [WATCH_CHANGE] = 2, [WATCH_DENY] = 3 };
    return rank[a] > rank[b];
}

static void settle(struct vcpu *v)
{
    struct watch_vcpu *w = &v->watch;
    struct watch_event e = w->asked.event;
    if (w->answer == WATCH_CHANGE)
        e.value = w->answer_value;
    if (w->answer != WATCH_RETRY)
        watch_grant_add(w, &e, w->asked.rip, w->answer == WATCH_DENY && is_delivery(&e));
    if (w->answer == WATCH_DENY && !is_delivery(&e)) {
        w->is_denied = true;
        w->denied_rip = w->asked.rip;
    }
    hold_release_vcpu(v);
}

void watch_answer(struct vcpu *v, uint64_t mask, enum watch_answer answer, uint64_t value)
{
    struct watch_vcpu *w = &v->watch;
    mask &= w->waits_for;
    if (!mask)
        return;
    if (outranks(answer, w->answer)) {
        w->answer = answer;
        w->answer_value = value;
    }
    w->waits_for &= ~mask;
    if (!w->waits_for)
        settle(v);
}
