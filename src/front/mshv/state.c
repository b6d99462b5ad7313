/* SPDX-License-Identifier: MIT */
/*
 * GET_VP_STATE and SET_VP_STATE: what a VP has that are no registers, in pages of the client. vcpu.lock is held while it is read or written.
 */
#include <string.h>

#include "base/memfd.h"
#include "chip/state.h"
#include "core/hold.h"
#include "core/xsave.h"
#include "front/mshv/mshv_priv.h"

#define STATE_BYTES PAGE_BYTES /* of the largest */
_Static_assert(XSAVE_AREA_BYTES == STATE_BYTES, "the compacted area fits too");

/* ---- the local APIC: the register at 16 * n of its page is a word here ---- */

static const struct {
    uint8_t at, reg, n;
} lapic_words[] = {
    { 0, 0x02, 1 },   /* id */
    { 4, 0x03, 1 },   /* version */
    { 8, 0x0d, 1 },   /* logical destination, its format */
    { 12, 0x0e, 1 },  /* */
    { 16, 0x0f, 1 },  /* spurious */
    { 20, 0x10, 24 }, /* ISR, TMR, IRR */
    { 116, 0x28, 1 }, /* errors */
    { 120, 0x31, 1 }, /* command, high and low */
    { 124, 0x30, 1 }, /* */
    { 128, 0x32, 6 }, /* timer, thermal, performance, LINT0, LINT1, error */
    { 152, 0x2f, 1 }, /* corrected machine checks */
    { 160, 0x38, 2 }, /* initial and current count */
    { 168, 0x3e, 1 }, /* divider */
};

static void lapic_copy(uint8_t *page, uint8_t *words, bool to_page)
{
    for (unsigned i = 0; i < sizeof lapic_words / sizeof lapic_words[0]; i++) {
        for (unsigned n = 0; n < lapic_words[i].n; n++) {
            uint8_t *reg = page + 16 * (lapic_words[i].reg + n), *word = words + lapic_words[i].at + 4 * n;
            memcpy(to_page ? reg : word, to_page ? word : reg, 4);
        }
    }
}

static int lapic_get(struct mshv_vp *vp, uint8_t *buf)
{
    uint8_t page[LAPIC_PAGE_BYTES];
    if (!vp->v->lapic)
        return -EIO;
    lapic_state_get(vp->v, page);
    lapic_copy(page, buf, false);
    return 0;
}

/* The task priority is CR8's and stays. */
static int lapic_set(struct mshv_vp *vp, uint8_t *buf)
{
    uint8_t page[LAPIC_PAGE_BYTES];
    if (!vp->v->lapic)
        return -EIO;
    lapic_state_get(vp->v, page);
    lapic_copy(page, buf, true);
    return lapic_state_set(vp->v, page) ? -EINVAL : 0;
}

/* ---- XSAVE ---- */

static int xsave_get(struct mshv_vp *vp, uint8_t *buf)
{
    vcpu_xsave_get_compact(vp->v, mshv_xsave_states(vp->owner), buf);
    return 0;
}

static int xsave_set(struct mshv_vp *vp, uint8_t *buf)
{
    int r = vcpu_xsave_set_compact(vp->v, buf);
    if (!r)
        vp->v->vm->engine->state_changed(vp->v);
    return r;
}

/* ---- the calls ---- */

static const struct {
    int (*get)(struct mshv_vp *vp, uint8_t *buf);
    int (*set)(struct mshv_vp *vp, uint8_t *buf);
} states[MSHV_STATES] = {
    [MSHV_STATE_LAPIC] = { lapic_get, lapic_set },
    [MSHV_STATE_XSAVE] = { xsave_get, xsave_set },
};

static uint32_t state_bytes(const struct mshv_vp *vp, unsigned type)
{
    return type == MSHV_STATE_XSAVE ? xsave_compact_bytes(mshv_xsave_states(vp->owner)) : STATE_BYTES;
}

/* Copies the client's struct, and its size as it should be; whether the rest is good. */
static int state_begin(const struct mshv_object *o, struct mshv_arg *a, struct mshv_vp_state *in, uint32_t *bytes)
{
    if (user_read(in, a->value, sizeof *in))
        return -EFAULT;
    bool has_reserved = in->reserved[0] || in->reserved[1] || in->reserved[2];
    if (in->type >= MSHV_STATES || has_reserved || !in->bytes || !page_is_aligned(in->bytes) || !page_is_aligned(in->address))
        return -EINVAL;
    if (!states[in->type].get) /* what only the interface for guests has */
        return -EIO;
    uint32_t given = in->bytes;
    *bytes = in->bytes = state_bytes(o->vp, in->type);
    if (user_write(a->value, in, sizeof *in))
        return -EFAULT;
    return *bytes > given ? -EINVAL : 0;
}

int mshv_state_get(struct mshv_object *o, struct mshv_arg *a)
{
    uint8_t buf[STATE_BYTES] = { 0 };
    struct mshv_vp_state in;
    uint32_t bytes;
    int r = state_begin(o, a, &in, &bytes);
    if (r)
        return r;
    hold_lock(o->vp->v);
    r = states[in.type].get(o->vp, buf);
    hold_unlock(o->vp->v);
    return r ? r : user_write(in.address, buf, bytes);
}

int mshv_state_set(struct mshv_object *o, struct mshv_arg *a)
{
    uint8_t buf[STATE_BYTES] = { 0 };
    struct mshv_vp_state in;
    uint32_t bytes;
    int r = state_begin(o, a, &in, &bytes);
    if (r)
        return r;
    if (user_read(buf, in.address, bytes))
        return -EFAULT;
    hold_lock(o->vp->v);
    r = states[in.type].set(o->vp, buf);
    hold_unlock(o->vp->v);
    return r;
}
