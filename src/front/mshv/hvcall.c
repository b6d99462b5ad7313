/* SPDX-License-Identifier: MIT */
/*
 * MSHV_ROOT_HVCALL: hypercalls that the kernel passes through, each with who may make it. Every call has a status, which the client gets in its struct beside
 * the errno that the kernel makes of it. Repeating calls stop at the first element that fails and say how many were done.
 */
#include <string.h>

#include "base/log.h"
#include "core/hold.h"
#include "front/mshv/mshv_priv.h"

#define BUFFER_BYTES 4096u
#define BY_OWNERS (MSHV_BY_PARTITION | MSHV_BY_VP)
#define VP_OFFSET 8u
#define VTL_OFFSET 12u

/* clang-format off */
static const struct mshv_hypercall calls[] = {
    { MSHV_GET_PARTITION_PROPERTY,      "GET_PARTITION_PROPERTY",      BY_OWNERS | MSHV_BY_DEVICE, 16, 0, 0, 8, mshv_property_get },
    { MSHV_SET_PARTITION_PROPERTY,      "SET_PARTITION_PROPERTY",      MSHV_BY_PARTITION, 24, 0, 0, 0, mshv_property_set },
    { MSHV_INSTALL_INTERCEPT,           "INSTALL_INTERCEPT",           BY_OWNERS, 24, 0, 0, 0, NULL },
    { MSHV_GET_VP_REGISTERS,            "GET_VP_REGISTERS",            BY_OWNERS, 16, 4, 16, 0, mshv_register_handle_get },
    { MSHV_SET_VP_REGISTERS,            "SET_VP_REGISTERS",            BY_OWNERS, 16, 32, 0, 0, mshv_register_handle_set },
    { MSHV_TRANSLATE_VIRTUAL_ADDRESS,   "TRANSLATE_VIRTUAL_ADDRESS",   BY_OWNERS, 32, 0, 0, 16, mshv_translate },
    { MSHV_CLEAR_VIRTUAL_INTERRUPT,     "CLEAR_VIRTUAL_INTERRUPT",     BY_OWNERS, 8, 0, 0, 0, NULL },
    { MSHV_REGISTER_INTERCEPT_RESULT,   "REGISTER_INTERCEPT_RESULT",   BY_OWNERS, 60, 0, 0, 0, mshv_cpuid_override },
    { MSHV_ASSERT_VIRTUAL_INTERRUPT,    "ASSERT_VIRTUAL_INTERRUPT",    BY_OWNERS, 29, 0, 0, 0, mshv_interrupt_assert },
    { MSHV_SIGNAL_EVENT_DIRECT,         "SIGNAL_EVENT_DIRECT",         BY_OWNERS, 16, 0, 0, 0, NULL },
    { MSHV_POST_MESSAGE_DIRECT,         "POST_MESSAGE_DIRECT",         BY_OWNERS, 276, 0, 0, 0, NULL },
    { MSHV_GET_GPA_PAGES_ACCESS_STATES, "GET_GPA_PAGES_ACCESS_STATES", BY_OWNERS, 8, 0, 0, 0, NULL },
    { MSHV_GET_VP_CPUID_VALUES,         "GET_VP_CPUID_VALUES",         BY_OWNERS, 24, 24, 16, 0, mshv_cpuid_get },
    { MSHV_GET_PARTITION_PROPERTY_EX,   "GET_PARTITION_PROPERTY_EX",   BY_OWNERS | MSHV_BY_DEVICE, 24, 0, 0, 16, mshv_property_get_ex },
};
/* clang-format on */
#define N_CALLS (sizeof(calls) / sizeof(calls[0]))

const struct mshv_hypercall *mshv_hypercall_table(unsigned *n)
{
    *n = N_CALLS;
    return calls;
}

static const struct mshv_hypercall *call_find(uint16_t code, enum mshv_fd_kind kind)
{
    for (unsigned i = 0; i < N_CALLS; i++)
        if (calls[i].code == code)
            return calls[i].by >> kind & 1 ? &calls[i] : NULL;
    return NULL;
}

/* As the kernel makes errors of statuses. */
static int errno_of(unsigned status)
{
    switch (status) {
    case MSHV_STATUS_SUCCESS:
        return 0;
    case MSHV_STATUS_INVALID_HYPERCALL_CODE:
    case MSHV_STATUS_INVALID_HYPERCALL_INPUT:
    case MSHV_STATUS_INVALID_PARAMETER:
    case MSHV_STATUS_INVALID_PARTITION_ID:
    case MSHV_STATUS_INVALID_VP_INDEX:
    case MSHV_STATUS_INVALID_REGISTER_VALUE:
        return -EINVAL;
    case MSHV_STATUS_INSUFFICIENT_MEMORY:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

static bool is_about_vp(const struct mshv_hypercall *call)
{
    return call->code == MSHV_GET_VP_REGISTERS || call->code == MSHV_SET_VP_REGISTERS || call->code == MSHV_TRANSLATE_VIRTUAL_ADDRESS ||
           call->code == MSHV_GET_VP_CPUID_VALUES;
}

/* Sizes, and what the partition has to be for it. */
static int call_check(const struct mshv_hypercall *call, const struct mshv_hvcall *h, const struct mshv_partition *p)
{
    if (!call->handle) {
        refusal_note("mshv hypercall", call->code);
        return MSHV_STATUS_INVALID_HYPERCALL_CODE;
    }
    bool is_repeating = call->in_each;
    if (is_repeating != !!h->reps || h->in_bytes < call->in_bytes + (unsigned)h->reps * call->in_each ||
        h->out_bytes < call->out_bytes + (unsigned)h->reps * call->out_each)
        return MSHV_STATUS_INVALID_HYPERCALL_INPUT;
    bool is_early = call->code == MSHV_GET_PARTITION_PROPERTY || call->code == MSHV_SET_PARTITION_PROPERTY || call->code == MSHV_GET_PARTITION_PROPERTY_EX;
    return p && !is_early && !atomic_load(&p->is_initialized) ? MSHV_STATUS_INVALID_PARTITION_STATE : MSHV_STATUS_SUCCESS;
}

/* The VP that the input names, locked. */
static int vp_begin(struct mshv_call_state *s)
{
    uint32_t index;
    memcpy(&index, s->in + VP_OFFSET, sizeof index);
    struct mshv_vp *vp = index < MSHV_VPS_MAX ? __atomic_load_n(&s->p->vp[index], __ATOMIC_ACQUIRE) : NULL;
    if (!vp)
        return MSHV_STATUS_INVALID_VP_INDEX;
    hold_lock(vp->v);
    mshv_page_take(vp);
    s->vp = vp;
    return MSHV_STATUS_SUCCESS;
}

static void vp_end(struct mshv_call_state *s, bool has_set)
{
    struct vcpu *v = s->vp->v;
    if (s->is_mode_changed) {
        vcpu_load_pdptes(v);
        vcpu_request(v, VREQ_EVENT);
        v->vm->engine->state_changed(v);
    }
    if (has_set && s->vp->page->is_valid)
        mshv_page_fill(s->vp);
    hold_unlock(v);
}

static int call_make(const struct mshv_hypercall *call, struct mshv_call_state *s, uint16_t *reps)
{
    unsigned n = call->in_each ? *reps : 1, done = 0;
    int status = is_about_vp(call) ? vp_begin(s) : MSHV_STATUS_SUCCESS;
    while (status == MSHV_STATUS_SUCCESS && done < n) {
        status = call->handle(s, done);
        done += status == MSHV_STATUS_SUCCESS;
    }
    if (s->vp)
        vp_end(s, call->code == MSHV_SET_VP_REGISTERS);
    *reps = call->in_each ? (uint16_t)done : 0;
    return status;
}

static bool is_well_formed(const struct mshv_hvcall *h)
{
    for (unsigned i = 0; i < sizeof h->reserved; i++)
        if (h->reserved[i])
            return false;
    if (h->status || !h->in || h->in_bytes < 8 || h->in_bytes > BUFFER_BYTES)
        return false;
    return !h->out || (h->out_bytes && h->out_bytes <= BUFFER_BYTES);
}

int mshv_root_hvcall(struct mshv_object *o, struct mshv_arg *a)
{
    _Alignas(16) uint8_t in[BUFFER_BYTES] = { 0 }, out[BUFFER_BYTES] = { 0 };
    struct mshv_hvcall h;
    if (user_read(&h, a->value, sizeof h))
        return -EFAULT;
    const struct mshv_hypercall *call = call_find(h.code, o->kind);
    if (!call || !is_well_formed(&h))
        return -EINVAL;
    if (user_read(in, h.in, h.in_bytes))
        return -EFAULT;
    if (!h.out)
        h.out_bytes = 0;
    struct mshv_call_state s = { .p = o->partition, .in = in, .out = out };
    int status = call_check(call, &h, o->partition);
    if (status == MSHV_STATUS_SUCCESS)
        status = call_make(call, &s, &h.reps);
    else
        h.reps = 0;
    h.status = (uint16_t)status;
    if (status == MSHV_STATUS_SUCCESS && h.out && user_write(h.out, out, h.out_bytes))
        return -EFAULT;
    return user_write(a->value, &h, sizeof h) ? -EFAULT : errno_of((unsigned)status);
}
