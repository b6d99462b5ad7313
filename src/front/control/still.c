/* SPDX-License-Identifier: MIT */
/*
 * Standing still: pausing, which is the user's and outlives the connection, and holds, which are the connection's; of a whole VM or of one vCPU. Single steps
 * of a vCPU that stands still. See control.h; what it does is core/hold.h's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/hold.h"
#include "core/vm.h"
#include "front/control/control_priv.h"

/* ---- pausing ---- */

int control_pause(struct control_arg *a)
{
    if (!atomic_exchange(&a->vm->is_paused, true))
        hold_vm(a->vm);
    return 0;
}

static void pause_vcpu(struct vcpu *v)
{
    if (!atomic_exchange(&v->hold.is_paused, true))
        hold_vcpu(v);
}

static void resume_vcpu(struct vcpu *v)
{
    if (atomic_exchange(&v->hold.is_paused, false))
        hold_release_vcpu(v);
}

static void each_vcpu_but(struct vm *vm, const struct vcpu *but, void (*change)(struct vcpu *v))
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v && v != but)
            change(v);
    }
}

int control_resume(struct control_arg *a)
{
    each_vcpu_but(a->vm, NULL, resume_vcpu);
    if (atomic_exchange(&a->vm->is_paused, false))
        hold_release_vm(a->vm);
    return 0;
}

int control_pause_vcpu(struct control_arg *a)
{
    pause_vcpu(a->vcpu);
    return 0;
}

/* Of a VM that is paused as a whole the others stay paused, each for itself. */
int control_resume_vcpu(struct control_arg *a)
{
    if (atomic_load(&a->vm->is_paused)) {
        each_vcpu_but(a->vm, a->vcpu, pause_vcpu);
        if (atomic_exchange(&a->vm->is_paused, false))
            hold_release_vm(a->vm);
    }
    resume_vcpu(a->vcpu);
    return 0;
}

/* ---- holds ---- */

static struct control_hold *hold_find(const struct control_arg *a)
{
    struct control_hold *h = a->session->holds;
    while (h && (h->vm != a->vm || h->vcpu != a->vcpu))
        h = h->next;
    return h;
}

static void hold_end(struct control_hold *h)
{
    if (h->vcpu)
        hold_release_vcpu(h->vcpu);
    else
        hold_release_vm(h->vm);
    h->count--;
}

int control_hold_call(struct control_arg *a)
{
    struct control_hold *h = hold_find(a);
    if (!h) {
        h = calloc(1, sizeof *h);
        if (!h)
            return -ENOMEM;
        vm_get(a->vm);
        *h = (struct control_hold){ .next = a->session->holds, .vm = a->vm, .vcpu = a->vcpu };
        a->session->holds = h;
    }
    h->count++;
    if (a->vcpu)
        hold_vcpu(a->vcpu);
    else
        hold_vm(a->vm);
    return 0;
}

int control_release(struct control_arg *a)
{
    struct control_hold *h = hold_find(a);
    if (!h || !h->count)
        return -EINVAL;
    hold_end(h);
    return 0;
}

void control_holds_end(struct control_session *s)
{
    for (struct control_hold *h = s->holds, *next; h; h = next) {
        next = h->next;
        while (h->count)
            hold_end(h);
        vm_put(h->vm);
        free(h);
    }
    s->holds = NULL;
}

/* ---- single steps ---- */

#define STEP_MS_MAX 100u /* a tool that dies meanwhile is noticed after that */

static bool may_step(const struct control_arg *a)
{
    struct control_arg all = *a;
    all.vcpu = NULL;
    const struct control_hold *one = hold_find(a), *of_all = hold_find(&all);
    return atomic_load(&a->vm->is_paused) || atomic_load(&a->vcpu->hold.is_paused) || (one && one->count) || (of_all && of_all->count);
}

int control_step_call(struct control_arg *a)
{
    struct control_step in;
    memcpy(&in, a->in, sizeof in);
    if (!may_step(a))
        return -EINVAL;
    int n = hold_step(a->vcpu, in.count, in.timeout_ms < STEP_MS_MAX ? in.timeout_ms : STEP_MS_MAX);
    if (n < 0)
        return n;
    *(struct control_stepped *)a->out = (struct control_stepped){ .count = (uint32_t)n };
    a->out_bytes = sizeof(struct control_stepped);
    return 0;
}
