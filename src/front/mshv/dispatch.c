/* SPDX-License-Identifier: MIT */
/*
 * The tables of ioctls, one for each kind of fd since requests repeat between them, and the one way through. The coverage page is printed from these tables, so
 * a call exists only if it stands here.
 */
#include "base/log.h"
#include "front/mshv/mshv_priv.h"

#define CALL(request, handle)       \
    {                               \
        (request), #request, handle \
    }

static const struct mshv_ioctl device_calls[] = {
    CALL(MSHV_CREATE_PARTITION, mshv_create_partition),
    CALL(MSHV_ROOT_HVCALL, mshv_root_hvcall),
};

static const struct mshv_ioctl partition_calls[] = {
    CALL(MSHV_INITIALIZE_PARTITION, mshv_initialize),
    CALL(MSHV_CREATE_VP, mshv_create_vp),
    CALL(MSHV_SET_GUEST_MEMORY, mshv_set_memory),
    CALL(MSHV_IRQFD, mshv_irqfd),
    CALL(MSHV_IOEVENTFD, mshv_ioeventfd),
    CALL(MSHV_SET_MSI_ROUTING, mshv_set_msi_routing),
    CALL(MSHV_ROOT_HVCALL, mshv_root_hvcall),
};

static const struct mshv_ioctl vp_calls[] = {
    CALL(MSHV_RUN_VP, mshv_run),
    CALL(MSHV_GET_VP_STATE, mshv_state_get),
    CALL(MSHV_SET_VP_STATE, mshv_state_set),
    CALL(MSHV_ROOT_HVCALL, mshv_root_hvcall),
};

const struct mshv_ioctl *mshv_ioctl_table(enum mshv_fd_kind kind, unsigned *n)
{
    static const struct {
        const struct mshv_ioctl *call;
        unsigned n;
    } tables[MSHV_FD_KINDS] = {
        [MSHV_FD_DEVICE] = { device_calls, sizeof device_calls / sizeof device_calls[0] },
        [MSHV_FD_PARTITION] = { partition_calls, sizeof partition_calls / sizeof partition_calls[0] },
        [MSHV_FD_VP] = { vp_calls, sizeof vp_calls / sizeof vp_calls[0] },
    };
    *n = tables[kind].n;
    return tables[kind].call;
}

bool mshv_request_is_run(unsigned long request)
{
    return (uint32_t)request == MSHV_RUN_VP;
}

int mshv_ioctl(struct object *base, unsigned long request, unsigned long arg, struct object **created)
{
    static const char *const names[MSHV_FD_KINDS] = { "mshv device ioctl", "mshv partition ioctl", "mshv vp ioctl" };
    struct mshv_object *o = (struct mshv_object *)base; /* its first member */
    struct mshv_arg a = { .value = arg };
    unsigned n;
    const struct mshv_ioctl *call = mshv_ioctl_table(o->kind, &n);
    while (n && call->request != (uint32_t)request)
        call++, n--;
    if (!n) {
        refusal_note(names[o->kind], request);
        return -ENOTTY;
    }
    int r = call->handle(o, &a);
    *created = a.created;
    return r;
}
