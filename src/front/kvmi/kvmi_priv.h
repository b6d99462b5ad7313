/* SPDX-License-Identifier: MIT */
/*
 * What the KVMI front's files share.
 */
#ifndef VITRINE_FRONT_KVMI_KVMI_PRIV_H
#define VITRINE_FRONT_KVMI_KVMI_PRIV_H

#include <errno.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "front/kvmi/kvmi.h"

#define KVMI_DATA_MAX (KVMI_MESSAGE_MAX - sizeof(struct kvmi_error))
#define KVMI_PAUSES_MAX 255u

/* A vCPU of the session. KVMI numbers vCPUs from 0 without gaps: in the order of their ids, later ones behind. */
struct kvmi_cpu {
    uint16_t id;
    uint16_t n_pauses;       /* each of them a hold and an event */
    bool is_told;            /* the event of one of them was sent and not answered */
    uint32_t event_sequence; /* of that one */
};

struct kvmi_session {
    uint32_t vm_number;
    unsigned n_cpus;
    struct kvmi_cpu cpu[VM_VCPUS_MAX];
    uint32_t next_sequence;
    bool is_silent, is_silent_next; /* this command, and those from the next on, are not answered */
    bool wants_unhook;
    _Alignas(8) uint8_t in[KVMI_MESSAGE_MAX]; /* the request behind its head, filled up with zeros */
};

/* One command in a handler's hands. */
struct kvmi_arg {
    struct kvmi_session *session;
    struct vm *vm;        /* with a reference */
    struct kvmi_cpu *cpu; /* and its vCPU, if the command is about one */
    struct vcpu *vcpu;
    const void *in;
    uint32_t in_bytes; /* as sent */
    void *out;         /* room for KVMI_DATA_MAX bytes */
    uint32_t out_bytes;
};

/* vcpu.c, those of a vCPU; fill is for a vCPU that stands still. */
int kvmi_get_vcpu_info(struct kvmi_arg *a);
int kvmi_get_registers(struct kvmi_arg *a);
int kvmi_set_registers(struct kvmi_arg *a);
int kvmi_get_cpuid(struct kvmi_arg *a);
int kvmi_get_xsave(struct kvmi_arg *a);
int kvmi_set_xsave(struct kvmi_arg *a);
int kvmi_inject_exception(struct kvmi_arg *a);
int kvmi_get_mtrr_type(struct kvmi_arg *a);
int kvmi_translate(struct kvmi_arg *a);
int kvmi_get_xcr(struct kvmi_arg *a);
void kvmi_event_fill(struct vcpu *v, struct kvmi_event *out);

/* memory.c */
int kvmi_read_physical(struct kvmi_arg *a);
int kvmi_write_physical(struct kvmi_arg *a);
int kvmi_get_max_gfn(struct kvmi_arg *a);
int kvmi_get_next_available_gfn(struct kvmi_arg *a);
int kvmi_query_physical(struct kvmi_arg *a);

/* pause.c */
int kvmi_pause_vcpu(struct kvmi_arg *a);
/* False: it answers nothing that was asked. */
bool kvmi_take_event_reply(struct kvmi_session *s, struct vm *vm, const struct kvmi_head *head, const void *payload);
void kvmi_pauses_end(struct kvmi_session *s, struct vm *vm);

/* kvmi.c */
struct vcpu *kvmi_vcpu_of(struct vm *vm, const struct kvmi_cpu *cpu);

#endif
