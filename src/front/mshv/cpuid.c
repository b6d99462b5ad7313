/* SPDX-License-Identifier: MIT */
/*
 * CPUID of VPs: what clients say over the partition's own, leaf by leaf, and what comes of it. Said of all VPs it holds for later ones too: the list is under
 * mshv_partition.lock.
 */
#include <stdlib.h>
#include <string.h>

#include "core/cpuid.h"
#include "core/hold.h"
#include "front/mshv/mshv_priv.h"

#define ENTRY_INDEXED 1u
#define OVERRIDES_MAX 1024u

static uint32_t masked(uint32_t before, const struct mshv_masked *m)
{
    return (before & ~m->mask) | (m->value & m->mask);
}

static void entry_override(struct cpuid_entry *e, const struct mshv_cpuid_override *o)
{
    e->eax = masked(e->eax, &o->eax);
    e->ebx = masked(e->ebx, &o->ebx);
    e->ecx = masked(e->ecx, &o->ecx);
    e->edx = masked(e->edx, &o->edx);
}

/* False: its table is full. vcpu.lock is held. */
static bool vp_override(struct vcpu *v, const struct mshv_cpuid_override *o)
{
    bool is_found = false;
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        struct cpuid_entry *e = &v->cpuid[i];
        bool is_same = e->function == o->leaf && (!o->is_subleaf || ((e->flags & ENTRY_INDEXED) && e->index == o->subleaf));
        if (is_same)
            entry_override(e, o);
        is_found |= is_same;
    }
    if (is_found)
        return true;
    if (v->n_cpuid == CPUID_ENTRIES_MAX)
        return false;
    /* In front: the first that fits is what the guest gets, and a leaf may have an entry for all of its parts. */
    memmove(v->cpuid + 1, v->cpuid, v->n_cpuid++ * sizeof v->cpuid[0]);
    v->cpuid[0] = (struct cpuid_entry){ .function = o->leaf, .index = o->is_subleaf ? o->subleaf : 0, .flags = o->is_subleaf ? ENTRY_INDEXED : 0 };
    entry_override(&v->cpuid[0], o);
    return true;
}

static int vp_override_locked(struct mshv_vp *vp, const struct mshv_cpuid_override *o)
{
    hold_lock(vp->v);
    bool is_done = vp_override(vp->v, o);
    vp->v->vm->engine->state_changed(vp->v);
    hold_unlock(vp->v);
    return is_done ? MSHV_STATUS_SUCCESS : MSHV_STATUS_INSUFFICIENT_MEMORY;
}

void mshv_cpuid_catch_up(struct mshv_vp *vp)
{
    const struct mshv_partition *p = vp->owner;
    for (unsigned i = 0; i < p->n_overrides; i++)
        vp_override(vp->v, &p->override[i]);
}

/* partition.lock is held. */
static int override_all(struct mshv_partition *p, const struct mshv_cpuid_override *o)
{
    if (p->n_overrides == OVERRIDES_MAX)
        return MSHV_STATUS_INSUFFICIENT_MEMORY;
    struct mshv_cpuid_override *grown = realloc(p->override, (p->n_overrides + 1) * sizeof *grown);
    if (!grown)
        return MSHV_STATUS_INSUFFICIENT_MEMORY;
    p->override = grown;
    p->override[p->n_overrides++] = *o;
    int status = MSHV_STATUS_SUCCESS;
    for (unsigned i = 0; i < MSHV_VPS_MAX && status == MSHV_STATUS_SUCCESS; i++)
        if (p->vp[i])
            status = vp_override_locked(p->vp[i], o);
    return status;
}

int mshv_cpuid_override(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_override_in in;
    struct mshv_partition *p = s->p;
    int status = MSHV_STATUS_INVALID_VP_INDEX;
    (void)rep;
    memcpy(&in, s->in, sizeof in);
    if (in.type != MSHV_INTERCEPT_CPUID)
        return MSHV_STATUS_INVALID_PARAMETER;
    pthread_mutex_lock(&p->lock);
    if (in.vp == MSHV_VP_ANY)
        status = override_all(p, &in.override);
    else if (in.vp < MSHV_VPS_MAX && p->vp[in.vp])
        status = vp_override_locked(p->vp[in.vp], &in.override);
    pthread_mutex_unlock(&p->lock);
    return status;
}

/* With XCR0 as the VP has it, whatever is asked. */
int mshv_cpuid_get(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_cpuid_query q;
    uint32_t out[4];
    memcpy(&q, s->in + sizeof(struct mshv_cpuid_in) + rep * sizeof q, sizeof q);
    vcpu_cpuid(s->vp->v, q.leaf, q.subleaf, out);
    memcpy(s->out + rep * sizeof out, out, sizeof out);
    return MSHV_STATUS_SUCCESS;
}
