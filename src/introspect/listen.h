/* SPDX-License-Identifier: MIT */
/*
 * Listeners: a tool's subscriptions to the events of one VM (core/watch.h), and its queue of what it was told. Filters are evaluated on the vCPU's thread
 * before anybody is woken. A subscription that asks makes each vCPU wait for the tool's answer; one that does not loses events, counted, when the queue is
 * full. A listener that goes takes everything with it: vCPUs that wait for it go on at once. Several listeners may ask about the same event: the strictest
 * answer holds. A listener keeps no VM alive: when the VM goes it is left behind with what is in its queue.
 *
 * Functions may be called from any thread but a vCPU's in its run; a listener is used by one thread at a time. -ESRCH: the VM has gone.
 */
#ifndef VITRINE_INTROSPECT_LISTEN_H
#define VITRINE_INTROSPECT_LISTEN_H

#include "core/watch.h"

struct look_listener;
struct vcpu;
struct vm;

#define LOOK_LISTENERS_MAX 64 /* of a VM */
#define LOOK_SUBSCRIPTIONS_MAX 256

struct look_filter {
    uint32_t kinds; /* WATCH_* */
    bool is_asking;
    bool is_lossless; /* a vCPU with something to tell waits when there is no room, else what it has to tell is dropped */
    bool has_vcpu, has_cr3;
    uint32_t vcpu;
    uint32_t cpls;                    /* bit per privilege level; 0: all */
    uint64_t cr3;                     /* bits 12-51 are compared */
    uint32_t first_index, last_index; /* of watch_event.index */
    uint64_t value_mask, value;       /* watch_event.value & value_mask must be value */
    bool has_rips;
    uint64_t first_rip, last_rip; /* of the instruction */
    uint64_t every;               /* only the first of so many that all else lets through; 0, 1: each */
    uint64_t count;               /* it ends after so many; 0: it does not */
    /* Or NULL. Asked after all of the above, on the vCPU's thread with vm.watch.lock held: it may not sleep or call back here. */
    bool (*is_wanted)(void *context, const struct vcpu *v, const struct watch_event *e);
    void *context;
};

/* Part of guest memory, for WATCH_ACCESS. */
struct look_range {
    gpa_t first, last;
    uint32_t access; /* WATCH_READ, WRITE, EXECUTE */
};

/* The caller has a reference to the VM, the listener takes none. -ENOMEM, -EMFILE, -EBUSY too many. */
int look_listener_create(struct vm *vm, struct look_listener **out);
void look_listener_destroy(struct look_listener *l);
/* An eventfd: readable when something was told since look_listener_next took the last, and when the VM has gone. The listener's. */
int look_listener_fd(const struct look_listener *l);
/* Copies for a tool in another process: of the memory in which the listener is told (introspect/ring.h), and of its fd. From then on the tool takes what is
 * told, and look_listener_next is not called. -EMFILE. */
int look_listener_share(struct look_listener *l, int fd[2]);
/* The tool has taken enough for vCPUs that wait for room (ring_has_waiting). -ESRCH. */
int look_room(struct look_listener *l);
/* False: it has gone; look_listener_next still gives what was told before. */
bool look_listener_has_vm(const struct look_listener *l);

/* From the return on every event is seen. A number for look_unsubscribe; -EINVAL, -ENOMEM, -ENOSPC. Ranges are copied; only with WATCH_ACCESS, and then some.
 */
int look_subscribe(struct look_listener *l, const struct look_filter *f, const struct look_range *range, unsigned n_ranges);
/* -ENOENT. Questions that are open stay so. */
int look_unsubscribe(struct look_listener *l, unsigned number);

/* Up to max of what was told, questions first, oldest first otherwise. *dropped: how many were lost so far. */
unsigned look_listener_next(struct look_listener *l, struct watch_record *out, unsigned max, uint64_t *dropped);
/* -ENOENT no such vCPU, -ESTALE the question is no longer open, -EINVAL this event cannot be answered so, -EBUSY something is injected already. */
int look_reply(struct look_listener *l, uint32_t vcpu, uint64_t question, const struct watch_reply *reply);
/* The same for answers that need no more. */
int look_answer(struct look_listener *l, uint32_t vcpu, uint64_t question, enum watch_answer answer, uint64_t value);

#endif
