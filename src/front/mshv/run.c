/* SPDX-License-Identifier: MIT */
/*
 * MSHV_RUN_VP: runs a VP until there is a message for the client. The VP then stands where it stood before the instruction that the message is about, and the
 * client executes that; only elements of INS and OUTS are finished here (message.c). A message that could not be handed over waits for the next call. vcpu.lock
 * is held.
 */
#include <string.h>

#include "core/hold.h"
#include "front/mshv/mshv_priv.h"

/* The client has answered as if to an IN or OUT; that is the next element of the string. Anything else that it made of the VP stands. */
static void element_finish(struct mshv_vp *vp)
{
    struct vcpu *v = vp->v;
    uint64_t answer = v->cpu.gpr[GPR_RAX];
    if (!vp->element.is_there)
        return;
    vp->element.is_there = false;
    if (v->cpu.seg[SEG_CS].base + v->cpu.rip != vp->element.linear_rip)
        return;
    v->cpu.gpr[GPR_RAX] = vp->element.rax;
    if (!vp->element.is_in)
        return;
    memcpy(v->replay.io_data, &answer, vp->element.bytes);
    v->replay.io_bytes = vp->element.bytes;
    v->replay.io_done = true;
}

static int run_until_exit(struct vcpu *v)
{
    int r;
    vcpu_unblock_faults();
    do {
        v->exit.kind = EXIT_NONE;
        r = vcpu_run(v);
    } while (!r && v->exit.kind == EXIT_NONE);
    return v->exit.kind == EXIT_INTR ? -EINTR : r;
}

static int run_once(struct mshv_vp *vp)
{
    const struct cpu_state *cpu = &vp->v->cpu;
    vp->is_explicitly_suspended = vp->is_intercept_suspended = false;
    mshv_page_take(vp);
    if (!vcpu_can_be(vp->v, cpu->cr0, cpu->cr3, cpu->cr4, cpu->efer, cpu->seg[SEG_CS].l)) {
        mshv_message_invalid_state(vp);
        return 0;
    }
    element_finish(vp);
    int r = run_until_exit(vp->v);
    return r ? r : mshv_message_encode(vp);
}

int mshv_run(struct mshv_object *o, struct mshv_arg *a)
{
    struct mshv_vp *vp = o->vp;
    int r = 0;
    hold_lock(vp->v);
    if (!vp->has_message) {
        /* There is no immediate_exit: a signal that comes before the call is lost to clients that send one only, so it counts for the call. */
        r = vcpu_was_interrupted() ? -EINTR : run_once(vp);
        vp->has_message = !r;
        vp->is_intercept_suspended = !r;
        vp->is_explicitly_suspended = r == -EINTR;
        mshv_page_fill(vp);
    }
    if (!r)
        r = user_write(a->value, &vp->message, sizeof vp->message);
    if (!r)
        vp->has_message = false;
    hold_unlock(vp->v);
    return r;
}
