/* SPDX-License-Identifier: MIT */
/*
 * The mshv front as transports and tools see it: the device that its fds come from, and the tables of calls. Behaves as the device node /dev/mshv of a Linux
 * kernel on the Microsoft hypervisor does; nothing here prints. Any thread.
 */
#ifndef VITRINE_FRONT_MSHV_FRONT_H
#define VITRINE_FRONT_MSHV_FRONT_H

#include "base/types.h"

struct object;
struct mshv_object;
struct mshv_arg;
struct mshv_call_state;

enum mshv_fd_kind { MSHV_FD_DEVICE, MSHV_FD_PARTITION, MSHV_FD_VP, MSHV_FD_KINDS };

/* Opens the device: an fd, and in *out the object behind it with one reference; or -errno. */
int mshv_object_open(struct object **out);
/* MSHV_RUN_VP alone may be called without proof that the fd still is the object's. */
bool mshv_request_is_run(unsigned long request);

struct mshv_ioctl {
    uint32_t request;
    const char *name;
    int (*handle)(struct mshv_object *o, struct mshv_arg *a);
};
const struct mshv_ioctl *mshv_ioctl_table(enum mshv_fd_kind kind, unsigned *n);

/* What MSHV_ROOT_HVCALL lets through. */
#define MSHV_BY_DEVICE 1u
#define MSHV_BY_PARTITION 2u
#define MSHV_BY_VP 4u
struct mshv_hypercall {
    uint16_t code;
    const char *name;
    unsigned by;                /* MSHV_BY_* */
    uint16_t in_bytes;          /* at least, without elements */
    uint16_t in_each, out_each; /* of repeating calls, else 0 */
    uint16_t out_bytes;
    /* A status; for repeating calls of element `rep`. NULL: allowed but not served, which is said by MSHV_STATUS_INVALID_HYPERCALL_CODE. */
    int (*handle)(struct mshv_call_state *s, unsigned rep);
};
const struct mshv_hypercall *mshv_hypercall_table(unsigned *n);

struct mshv_property {
    uint32_t code;
    const char *name;
    bool is_early, is_settable; /* early: before INITIALIZE_PARTITION only */
};
const struct mshv_property *mshv_property_table(unsigned *n);

struct mshv_register_range {
    uint32_t first, last;
    const char *name;
};
const struct mshv_register_range *mshv_register_names(unsigned *n);

#endif
