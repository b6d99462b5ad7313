/* SPDX-License-Identifier: MIT */
/*
 * The KVM front as transports and tools see it: the device that its fds come from, and the table of calls. Behaves as the device node
 * /dev/kvm of a Linux kernel does; nothing here prints. Any thread.
 */
#ifndef VITRINE_FRONT_KVM_FRONT_H
#define VITRINE_FRONT_KVM_FRONT_H

#include "base/types.h"

struct object;
struct kvm_vm;
struct kvm_vcpu;
struct kvm_arg;

enum kvm_fd_kind { KVM_FD_DEVICE, KVM_FD_VM, KVM_FD_VCPU, KVM_FD_STATS /* has no calls */ };

/* Opens the device: an fd, and in *out the object behind it with one reference; or -errno. */
int kvm_object_open(struct object **out);
/* KVM_RUN alone may be called without proof that the fd still is the object's: it is the one request where a system call would be felt. */
bool kvm_request_is_run(unsigned long request);

/*
 * Async-signal-safe: tells the vCPU that this thread is running, if any, that a signal handler ran, so that KVM_RUN ends with EINTR. For whoever wraps the
 * client's handlers.
 */
void kvm_run_interrupted(void);

/* ---- the table -------------------------------------------------------------------------------------------------------------------------- */

#define KVM_GENERATION_2007 1u
#define KVM_GENERATION_TODAY 2u

enum kvm_arg_kind {
    KVM_ARG_NONE,   /* must be 0, else EINVAL */
    KVM_ARG_VALUE,  /* the number itself */
    KVM_ARG_STRUCT, /* copied in and out by the dispatcher, as the request's direction and size say */
    KVM_ARG_IN,     /* as STRUCT, but copied in whatever the direction says */
    KVM_ARG_RAW     /* the handler copies: flexible arrays, or NULL allowed */
};

struct kvm_call {
    enum kvm_fd_kind kind;
    uint32_t request;
    const char *name;
    unsigned generations;
    const char *capability; /* name of the extension it belongs to, "" if it was always there */
    enum kvm_arg_kind arg;
    union {
        int (*device)(struct kvm_arg *a);
        int (*vm)(struct kvm_vm *m, struct kvm_arg *a);
        int (*vcpu)(struct kvm_vcpu *c, struct kvm_arg *a);
    } handler;
};

const struct kvm_call *kvm_dispatch_table(unsigned *n);

/* What KVM_CHECK_EXTENSION answers, for the coverage page. */
struct kvm_capability {
    const char *name;
    uint32_t number;
    int value; /* negative: the number of host CPUs */
};
const struct kvm_capability *kvm_capability_table(unsigned *n);

#endif
