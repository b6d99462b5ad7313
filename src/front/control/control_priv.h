/* SPDX-License-Identifier: MIT */
/*
 * What the control front's files share.
 */
#ifndef VITRINE_FRONT_CONTROL_CONTROL_PRIV_H
#define VITRINE_FRONT_CONTROL_CONTROL_PRIV_H

#include "front/control/control.h"
#include "vitrine/inspect.h"

#define CONTROL_SLOTS_MAX 2048u /* of a VM; more are not told */

struct look_listener;
struct vcpu;
struct vm;

/* A VM, or one vCPU of it, that a connection holds, so often; with a reference. */
struct control_hold {
    struct control_hold *next;
    struct vm *vm;
    struct vcpu *vcpu; /* NULL: all */
    unsigned count;
};

/* A VM of whose events a connection is told. */
struct control_ear {
    struct control_ear *next;
    uint32_t number; /* of the VM */
    struct look_listener *listener;
};

struct control_session {
    struct control_hold *holds;
    struct control_ear *ears;
    unsigned n_fds; /* with the last reply, until they are taken */
    int fd[CONTROL_FDS_MAX];
    int given_fd; /* with the request; -1: none */
};

/* One request in a handler's hands. */
struct control_arg {
    struct control_session *session;
    struct vm *vm;     /* with a reference, if the call is about one */
    struct vcpu *vcpu; /* if the call is about one */
    const void *in;
    uint32_t in_bytes;
    void *out;
    uint32_t out_bytes; /* what the handler filled */
};

/* endpoints.c */
int control_attach(struct control_arg *a);
int control_detach(struct control_arg *a);
int control_endpoints_call(struct control_arg *a);

/* events.c */
int control_subscribe_call(struct control_arg *a);
int control_unsubscribe(struct control_arg *a);
int control_ring(struct control_arg *a);
int control_room(struct control_arg *a);
int control_answer_call(struct control_arg *a);
int control_inject(struct control_arg *a);
void control_ears_close(struct control_session *s);
/* The connection's listener at a->vm, made if there is none. */
int control_ear_open(struct control_arg *a, struct look_listener **out);

/* regs.c */
int control_get_regs(struct control_arg *a);
int control_set_regs(struct control_arg *a);
int control_translate(struct control_arg *a);

/* share.c */
int control_share(struct control_arg *a);
int control_slots(struct control_arg *a);

/* state.c */
int control_get_msrs(struct control_arg *a);
int control_set_msrs(struct control_arg *a);
int control_get_xsave(struct control_arg *a);
int control_set_xsave(struct control_arg *a);

/* still.c */
int control_pause(struct control_arg *a);
int control_resume(struct control_arg *a);
int control_pause_vcpu(struct control_arg *a);
int control_resume_vcpu(struct control_arg *a);
int control_hold_call(struct control_arg *a);
int control_release(struct control_arg *a);
int control_step_call(struct control_arg *a);
void control_holds_end(struct control_session *s);

/* views.c */
int control_view_create(struct control_arg *a);
int control_view_destroy(struct control_arg *a);
int control_view_switch(struct control_arg *a);
int control_view_of(struct control_arg *a);
int control_view_access(struct control_arg *a);
int control_view_writeable(struct control_arg *a);
int control_view_pages(struct control_arg *a);
int control_view_remap(struct control_arg *a);
int control_page_add(struct control_arg *a);
int control_page_remove(struct control_arg *a);
int control_page_lend(struct control_arg *a);

/* vms.c */
int control_next_vm(struct control_arg *a);
int control_info(struct control_arg *a);
int control_vcpus(struct control_arg *a);

#endif
