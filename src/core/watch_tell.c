/* SPDX-License-Identifier: MIT */
/*
 * See watch.h: what the engine calls while the guest's vector registers may be in the hardware, so general registers only: what was granted already, telling
 * who need not answer, and whether a page is watched. The vCPU's thread; no lock.
 */
#include "core/vcpu.h"
#include "core/vm.h"
#include "core/watch.h"

bool watch_ranges_meet(const struct watch_ranges *r, gpa_t first, gpa_t last)
{
    unsigned lo = 0, hi = r->n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (r->range[mid].last < first)
            lo = mid + 1;
        else if (r->range[mid].first > last)
            hi = mid;
        else
            return true;
    }
    return false;
}

/* A piece of what was granted is granted: instructions probe an area and then write it in parts. */
static bool is_covered(const struct watch_event *by, const struct watch_event *e)
{
    if (by->kind != e->kind || by->index != e->index || (e->access & ~by->access))
        return false;
    return e->kind != WATCH_ACCESS || (e->gpa >= by->gpa && e->gpa + e->bytes <= by->gpa + by->bytes);
}

static const struct watch_grant *find_grant(const struct vcpu *v, const struct watch_event *e)
{
    const struct watch_vcpu *w = &v->watch;
    for (unsigned i = 0; i < w->n_grants; i++)
        if (w->grant[i].rip == v->cpu.rip && is_covered(&w->grant[i].event, e))
            return &w->grant[i];
    return NULL;
}

void watch_grant_add(struct watch_vcpu *w, const struct watch_event *e, uint64_t rip, bool is_dropped)
{
    if (w->n_grants < WATCH_GRANTS_MAX)
        w->grant[w->n_grants++] = (struct watch_grant){ .event = *e, .rip = rip, .is_dropped = is_dropped };
}

enum watch_verdict watch_tell(struct vcpu *v, struct watch_event *e)
{
    struct watch_vcpu *w = &v->watch;
    const struct watch_grant *g = find_grant(v, e);
    if (g) {
        if (e->kind & (WATCH_CR | WATCH_MSR_WRITE | WATCH_XSETBV))
            e->value = g->event.value;
        return g->is_dropped ? WATCH_GO_DROPPED : WATCH_GO;
    }
    if (w->n_grants == WATCH_GRANTS_MAX) /* more than an instruction can touch; what could not be remembered would be asked for ever */
        return WATCH_GO;
    if (!v->vm->watch.ops->tell(v, e))
        return WATCH_UNDECIDED;
    watch_grant_add(w, e, v->cpu.rip, false); /* should the instruction start again */
    return WATCH_GO;
}
