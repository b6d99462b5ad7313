/* SPDX-License-Identifier: MIT */
/*
 * Inside the mshv front: what stands behind partition and VP fds, and who implements which part. A call on a VP takes vcpu.lock for as long as it needs
 * registers; what it needs of the partition is under mshv_partition.lock, which is never held while a VP runs.
 */
#ifndef VITRINE_FRONT_MSHV_MSHV_PRIV_H
#define VITRINE_FRONT_MSHV_MSHV_PRIV_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "abi/mshv.h"
#include "base/object.h"
#include "base/user.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "front/mshv/front.h"

/* One ioctl's argument, bare: the client's address. */
struct mshv_arg {
    uint64_t value;
    struct object *created;
};

/* Memory as the client mapped it; its place in the array is core's slot id. bytes 0: free. */
struct mshv_region {
    gpa_t gpa;
    uint64_t bytes;
    uint64_t hva;
};
#define MSHV_REGIONS_MAX 4096u

struct mshv_partition {
    struct vm *vm;
    _Atomic unsigned refs; /* fd objects: of the partition and of its VPs */
    pthread_mutex_t lock;  /* everything below */
    uint64_t flags;        /* MSHV_PT_* */
    uint64_t disabled[MSHV_FEATURE_BANKS], disabled_xsave;
    _Atomic bool is_initialized; /* set once */
    uint64_t processors_per_socket;
    struct mshv_region *region;
    unsigned n_regions;
    struct mshv_cpuid_override *override; /* of all VPs, those to come too */
    unsigned n_overrides;
    struct mshv_vp *vp[MSHV_VPS_MAX]; /* published once, never moved until the partition goes */
    unsigned n_vps;
};

struct mshv_vp {
    struct vcpu *v;
    struct mshv_partition *owner;
    struct mshv_register_page *page; /* shared with the client */
    bool is_explicitly_suspended, is_intercept_suspended;
    bool has_message; /* that no call has handed over yet */
    struct mshv_message message;
    /* An element of INS or OUTS is with the client, as an IN or OUT of its own; RAX was this before. */
    struct {
        bool is_there, is_in;
        uint8_t bytes;
        uint64_t linear_rip, rax;
    } element;
};

struct mshv_object {
    struct object base;
    enum mshv_fd_kind kind;
    struct mshv_partition *partition;
    struct mshv_vp *vp;
};

/* ---- object.c ---- */

/* A new fd with its object, or -errno. */
int mshv_object_create_partition(const struct mshv_create_partition_v2 *how, struct object **out);
/* partition.lock is held. */
int mshv_object_create_vp(struct mshv_partition *p, uint32_t index, struct object **out);

/* ---- partition.c: ioctls of the device and of partitions ---- */

int mshv_create_partition(struct mshv_object *o, struct mshv_arg *a);
int mshv_initialize(struct mshv_object *o, struct mshv_arg *a);
int mshv_create_vp(struct mshv_object *o, struct mshv_arg *a);
int mshv_set_memory(struct mshv_object *o, struct mshv_arg *a);

/* ---- eventfd.c, state.c: ioctls of partitions, of VPs ---- */

int mshv_irqfd(struct mshv_object *o, struct mshv_arg *a);
int mshv_ioeventfd(struct mshv_object *o, struct mshv_arg *a);
int mshv_set_msi_routing(struct mshv_object *o, struct mshv_arg *a);
int mshv_state_get(struct mshv_object *o, struct mshv_arg *a);
int mshv_state_set(struct mshv_object *o, struct mshv_arg *a);

/* ---- dispatch.c ---- */

int mshv_ioctl(struct object *base, unsigned long request, unsigned long arg, struct object **created); /* object_ops.ioctl */

/* ---- hvcall.c ---- */

/* A hypercall under way. */
struct mshv_call_state {
    struct mshv_partition *p; /* NULL: the device's */
    struct mshv_vp *vp;       /* whom the input names, locked; NULL if the call is about no VP */
    const uint8_t *in;        /* its first word is no input */
    uint8_t *out;
    bool is_mode_changed; /* the engine has to be told */
};

int mshv_root_hvcall(struct mshv_object *o, struct mshv_arg *a);

/* ---- handlers of hypercalls, by file: a status ---- */

int mshv_property_get(struct mshv_call_state *s, unsigned rep);
int mshv_property_set(struct mshv_call_state *s, unsigned rep);
int mshv_property_get_ex(struct mshv_call_state *s, unsigned rep);
int mshv_cpuid_override(struct mshv_call_state *s, unsigned rep);
int mshv_cpuid_get(struct mshv_call_state *s, unsigned rep);
int mshv_register_handle_get(struct mshv_call_state *s, unsigned rep);
int mshv_register_handle_set(struct mshv_call_state *s, unsigned rep);
int mshv_translate(struct mshv_call_state *s, unsigned rep);
int mshv_interrupt_assert(struct mshv_call_state *s, unsigned rep);

/* ---- register.c, page.c ---- */

void mshv_segment_from(struct mshv_segment *out, const struct segment *in);
void mshv_segment_to(struct segment *out, const struct mshv_segment *in);
uint64_t mshv_pending_interruption(const struct vcpu *v);
uint64_t mshv_interrupt_state(const struct vcpu *v);
/* The VP stands at another instruction than before. */
void mshv_rip_set(struct mshv_vp *vp, uint64_t rip);
/* Makes the page what the registers are. */
void mshv_page_fill(struct mshv_vp *vp);
/* Takes over what the client says that it changed in the page. */
void mshv_page_take(struct mshv_vp *vp);

/* ---- run.c, message.c ---- */

int mshv_run(struct mshv_object *o, struct mshv_arg *a);
/* v->exit as a message. 0 or what RUN_VP returns. */
int mshv_message_encode(struct mshv_vp *vp);
void mshv_message_invalid_state(struct mshv_vp *vp);

/* ---- feature.c, cpuid.c ---- */

#define MSHV_BANKS (MSHV_FEATURE_BANKS + 1) /* the last is that of XSAVE features */
/* The features that a partition has, or the host without one. */
void mshv_features_enabled(const struct mshv_partition *p, uint64_t bank[MSHV_BANKS]);
/* The components of XSAVE, by the bits of XCR0. */
uint64_t mshv_xsave_states(const struct mshv_partition *p);
/* What clients said of all VPs before this one came. partition.lock is held. */
void mshv_cpuid_catch_up(struct mshv_vp *vp);

/* What the guest's CPUID says by default. The caller tells the engine. */
void mshv_features_install(struct mshv_vp *vp);

#endif
