/* SPDX-License-Identifier: MIT */
/*
 * What the KVMI front's files share: what a session holds (kvmi.c, events.c, vcpu.c, memory.c), in no dialect's layout, and what a dialect's table points to.
 * Requests of kvmi_get_registers and its like are laid out as in src/abi/kvmi.h; the dialects that share a layout share the function.
 */
#ifndef VITRINE_FRONT_KVMI_KVMI_PRIV_H
#define VITRINE_FRONT_KVMI_KVMI_PRIV_H

#include <errno.h>
#include <stdatomic.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "front/kvmi/kvmi.h"
#include "introspect/listen.h"

#define KVMI_DATA_MAX (KVMI_MESSAGE_MAX - sizeof(struct kvmi_error))
#define KVMI_REPLY_AT sizeof(struct kvmi_error) /* handlers leave their data there */
#define KVMI_PAUSES_MAX 255u
#define KVMI_MSRS_OF_RANGE 0x2000u

/* ---- events, in no dialect's words ---- */

/* How a vCPU stood before the event. */
struct kvmi_state {
    uint8_t mode; /* bytes of an address */
    uint16_t view;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip, efer, star, lstar, cstar, pat, kernel_gs_base;
};

struct kvmi_told {
    enum kvmi_event_id event;
    unsigned vcpu;
    struct kvmi_state state;
    uint32_t index;            /* control register, extended one, MSR, vector, leaf, WATCH_GDTR and its like */
    uint32_t access;           /* WATCH_*; of a table: read is a store by the guest, write a load */
    uint64_t old_value, value; /* of a register; of an exception: error code and address; of CPUID: value is the subleaf */
    gva_t gva;                 /* ~0: not known */
    gpa_t gpa;
    uint8_t insn_bytes;
    bool is_failed; /* the step became an interrupt's */
};

struct kvmi_verdict {
    enum kvmi_action action;
    bool is_denied; /* the instruction is skipped */
    bool has_regs;  /* to go on with */
    struct kvm_regs regs;
    bool has_value; /* for the register, else what the guest wanted */
    uint64_t value;
    bool is_step, is_rep_complete; /* of a page access */
    bool is_data_of_event;         /* the data's address is the event's */
    uint64_t data_address;         /* and what the instruction reads there */
    uint32_t data_bytes;
    uint8_t data[KVMI_CONTEXT_MAX];
};

/* ---- what a session holds ---- */

/* What the tool wants of a vCPU, by its id. The vCPU's thread reads it. */
struct kvmi_wants {
    _Atomic uint32_t events; /* 1 << enum kvmi_event_id */
    _Atomic uint32_t control_registers;
    _Atomic uint32_t n_msrs;
    _Atomic uint32_t msr[3][KVMI_MSRS_OF_RANGE / 32]; /* from 0, 0xc0000000, 0x40000000 */
    _Atomic bool is_stepped;
    bool wants_all_traps;     /* of the dialect */
    _Atomic bool is_injected; /* an exception of the tool's is on its way */
    bool is_quiet;            /* hold_quiet; the session's thread */
    bool is_step_fresh;       /* the instruction that stepping begins with, at step_rip, was not met yet; the vCPU's, as the next two */
    uint64_t step_rip;
    bool is_step_interrupted; /* the last step was not made */
};

/* A vCPU of the session. KVMI numbers vCPUs from 0 without gaps: in the order of their ids, later ones behind. */
struct kvmi_cpu {
    uint16_t id;
    uint16_t n_pauses; /* each of them a hold and an event */
    bool has_question; /* asked is open */
    bool is_told;      /* told_event was sent and not answered */
    enum kvmi_event_id told_event;
    uint32_t sequence; /* of that one */
    uint64_t old_value, value;
    bool is_rep_complete; /* of the rest of the repeated instruction at rep_rip nothing is to be told */
    uint64_t rep_rip, rep_count;
    struct watch_record asked;
};

/* The machine that the tool runs in, and where in it there are pages of this one. */
struct kvmi_home {
    struct vitrine_vm *vm; /* NULL: not opened */
    uint64_t *gfn;
    unsigned n;
};

struct kvmi_session {
    const struct kvmi_dialect *dialect;
    const struct kvmi_options *options;
    const char *why; /* the connection had to end */
    bool has_spoken;
    bool is_dialect_open; /* and may be another one by what comes next */
    const char *refusal;  /* of the last command that could not be done for a reason that its error does not tell */
    pid_t peer_pid;       /* of the process that listens; 0: not known */
    struct kvmi_home home;
    uint32_t vm_number;
    unsigned n_cpus;
    uint32_t next_sequence;
    bool is_silent, is_silent_next; /* this command, and those from the next on, are not answered */
    bool wants_unhook;
    _Atomic bool wants_new_vcpus;
    bool has_spp;                   /* CONTROL_SPP */
    bool holds_vm;                  /* the tool paused it as a whole */
    struct look_listener *listener; /* NULL: no event was asked for yet */
    uint32_t kinds;                 /* what it is subscribed to, as number */
    unsigned subscription;
    struct kvmi_cpu cpu[VM_VCPUS_MAX];
    struct kvmi_wants wants[VM_VCPU_IDS];
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

/* Columns of a dialect's table. */
#define CPU true
#define ALL false
#define DATA true
#define ERROR false

/* ---- handlers that dialects share ---- */

/* kvmi.c */
int kvmi_refuse(struct kvmi_arg *a);
int kvmi_check_command(struct kvmi_arg *a);
int kvmi_check_event(struct kvmi_arg *a);
int kvmi_get_guest_info(struct kvmi_arg *a);

/* vcpu.c */
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

/* memory.c */
int kvmi_read_physical(struct kvmi_arg *a);
int kvmi_write_physical(struct kvmi_arg *a);
int kvmi_get_max_gfn(struct kvmi_arg *a);
int kvmi_get_next_available_gfn(struct kvmi_arg *a);
int kvmi_query_physical(struct kvmi_arg *a);

/* pages.c */
int kvmi_set_page_access(struct kvmi_arg *a);
int kvmi_set_page_write_bitmap(struct kvmi_arg *a);
int kvmi_get_page_access(struct kvmi_arg *a);
int kvmi_get_page_write_bitmap(struct kvmi_arg *a);
int kvmi_control_spp(struct kvmi_arg *a);
int kvmi_create_view(struct kvmi_arg *a);
int kvmi_destroy_view(struct kvmi_arg *a);
int kvmi_switch_view(struct kvmi_arg *a);
int kvmi_get_view(struct kvmi_arg *a);
int kvmi_alloc_gfn(struct kvmi_arg *a);
int kvmi_free_gfn(struct kvmi_arg *a);
int kvmi_change_gfn(struct kvmi_arg *a);

/* home.c: to and from the machine that the tool runs in */
int kvmi_map_page_to_guest(struct kvmi_arg *a);
int kvmi_unmap_page_from_guest(struct kvmi_arg *a);

/* ---- behaviour ---- */

/* home.c: takes back the pages that are in it. */
void kvmi_home_close(struct kvmi_session *s);

/* pages.c: each page that can be; the first mistake's error. `entry` need not be aligned. */
int kvmi_set_access(struct kvmi_arg *a, unsigned view, const struct kvmi_page_access *entry, unsigned n);
/* What of an access to a page the tool does not allow. */
uint32_t kvmi_failed_access(struct kvmi_session *s, unsigned view, const struct watch_event *e);

/* vcpu.c; fill is for a vCPU that stands still. */
void kvmi_state_fill(struct vcpu *v, struct kvmi_state *out);
/* At any time; of a vCPU that waits for an answer, they count when it has it. */
void kvmi_put_registers(struct vcpu *v, const struct kvm_regs *regs);

/* control.c: what the tool wants to be told. 0, or an error of the protocol. Events in effect when they return. */
int kvmi_control_event(struct kvmi_arg *a, enum kvmi_event_id event, bool enable);
int kvmi_control_vm_event(struct kvmi_arg *a, enum kvmi_event_id event, bool enable);
int kvmi_control_register(struct kvmi_arg *a, uint32_t cr, bool enable);
int kvmi_control_msr(struct kvmi_arg *a, uint32_t msr, bool enable);
int kvmi_control_step(struct kvmi_arg *a, bool enable);
bool kvmi_is_stepped(const struct kvmi_arg *a);
/* The subscription becomes what is wanted. */
int kvmi_follow(struct kvmi_session *s, struct vm *vm);
int kvmi_listen(struct kvmi_session *s, struct vm *vm); /* the session has a listener from now on */
void kvmi_controls_end(struct kvmi_session *s, struct vm *vm);

/* events.c */
int kvmi_pause(struct kvmi_arg *a);
/* False: it answers nothing that was asked. */
bool kvmi_take_event_reply(struct kvmi_session *s, struct vm *vm, const struct kvmi_head *head, const void *payload);
void kvmi_pauses_end(struct kvmi_session *s, struct vm *vm);

/* encode.c */
void kvmi_encode_state(const struct kvmi_told *t, struct kvmi_event *out);            /* without event and view */
uint32_t kvmi_encode_reply(unsigned id, int error, uint32_t bytes, uint8_t *payload); /* behind a struct kvmi_error */
uint8_t kvmi_descriptor_of(uint32_t table);                                           /* WATCH_GDTR and its like, in KVMI's numbers */
/* A struct kvmi_vcpu and a struct kvmi_event_reply, with up to more_bytes behind them. False: something else. */
bool kvmi_decode_answer(unsigned event, unsigned vcpu, const uint8_t *payload, uint32_t bytes, uint32_t more_bytes, struct kvmi_verdict *out);
void kvmi_decode_value(const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out); /* the register's, behind those */
/* A struct kvmi_event_pf_reply behind those, as much as is there. False: what it cannot be. */
bool kvmi_decode_access(const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out);
#define KVMI_PUT(out, type, ...) (memcpy(out, &(const struct type){ __VA_ARGS__ }, sizeof(struct type)), (uint32_t)sizeof(struct type))

/* policy.c: what the user lets this tool do. */
bool kvmi_allows_command(const struct kvmi_session *s, const struct kvmi_command *c);
bool kvmi_allows_event(const struct kvmi_session *s, enum kvmi_event_id event);

/* kvmi.c */
bool kvmi_take_vcpu(struct kvmi_arg *a, unsigned number);                        /* false: there is none */
enum kvmi_event_id kvmi_event_at(const struct kvmi_dialect *d, unsigned number); /* KVMI_EVENTS: there is none */
struct kvmi_cpu *kvmi_cpu_of(struct kvmi_session *s, uint32_t id);               /* by the vCPU's id; NULL: not met yet */
void kvmi_notice_cpus(struct kvmi_session *s, struct vm *vm);
struct vcpu *kvmi_vcpu_of(struct vm *vm, const struct kvmi_cpu *cpu);

#endif
