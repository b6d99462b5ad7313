/* SPDX-License-Identifier: MIT */
/*
 * The KVMI front: messages of src/abi/kvmi.h from one tool about one VM. A dialect is tables and an encoding of events; what its commands do is core's and
 * introspect's, and what a session holds is the same in all. Transport brings and takes the bytes. A session is one connection, used by one thread; all that it
 * changed about the VM is undone when it ends. It keeps no VM alive.
 */
#ifndef VITRINE_FRONT_KVMI_KVMI_H
#define VITRINE_FRONT_KVMI_KVMI_H

#include <sys/types.h>

#include "abi/kvmi.h"
#include "base/types.h"

struct kvmi_arg;
struct kvmi_session;
struct kvmi_told;
struct kvmi_verdict;

/* What of the protocol a tool may use, by the names of commands, and of events with "event:" before. */
enum kvmi_policy_kind { KVMI_POLICY_ALL, KVMI_POLICY_ALLOW, KVMI_POLICY_DENY };
struct kvmi_policy {
    enum kvmi_policy_kind kind;
    char names[512]; /* with '+' between them */
};

#define KVMI_GUEST_BYTES 80u

struct kvmi_options {
    const struct kvmi_dialect *dialect; /* NULL: by what the tool says */
    struct kvmi_policy policy;
    char guest[KVMI_GUEST_BYTES]; /* the machine that the tool runs in, as users name it; empty: the one of the process that listens */
};

/* NULL, or why it cannot be: a letter or "auto"; a list of names with '+' between them, capital or small letters. */
const char *kvmi_dialect_parse(const char *text, const struct kvmi_dialect **out);
const char *kvmi_policy_parse(const char *names, enum kvmi_policy_kind kind, struct kvmi_policy *out);
/* NULL, or why the list is not one for the dialect. */
const char *kvmi_options_check(const struct kvmi_options *options);

struct kvmi_vm {
    uint32_t number;
    bool is_ready; /* it has all the vCPUs that it starts with */
    struct kvmi_hello hello;
};

struct kvmi_command {
    const char *name;
    bool is_vcpu, has_data; /* struct kvmi_vcpu precedes its request; its reply is more than an error */
    uint16_t bytes;         /* of the request; what a shorter one lacks is zero, what a longer one has behind is for the handler or for nobody */
    uint16_t must_be_zero;  /* one bit for each of the request's first 16 bytes */
    int (*handle)(struct kvmi_arg *a);
};

struct kvmi_event_kind {
    const char *name; /* NULL: it is never sent */
    enum kvmi_event_id event;
};

struct kvmi_dialect {
    char letter; /* what users call it */
    const char *name;
    unsigned n_commands, n_events;
    const struct kvmi_command *command;  /* by message id; without a name: there is none */
    const struct kvmi_event_kind *event; /* by the dialect's number of it */
    uint32_t events_always;              /* 1 << enum kvmi_event_id: no switch for them, they follow from commands */
    bool is_vm_wide;                     /* control registers and MSRs are watched on all vCPUs, later ones too */
    bool has_synthetic_msrs;             /* MSRs from 0x40000000 can be watched */
    bool tells_all_traps;                /* TRAP tells of each exception, not only of the tool's own */
    bool has_exact_requests;             /* what a short one lacks is not zero but missing */
    uint16_t id_event_reply;             /* of the tool's messages that are no commands */
    uint16_t id_ours;                    /* of messages that only we send */
    /* A reply's payload, from `bytes` bytes that its handler left at payload + KVMI_REPLY_AT: its size. */
    uint32_t (*encode_reply)(unsigned id, int error, uint32_t bytes, uint8_t *payload);
    /* The payload of an event's message, up to KVMI_MESSAGE_MAX bytes: its size. *id: the message's. */
    uint32_t (*encode_event)(const struct kvmi_told *t, uint16_t *id, void *out);
    /* The answer to an event of that vCPU. False: none that it has. */
    bool (*decode_reply)(enum kvmi_event_id event, unsigned vcpu, const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out);
};
extern const struct kvmi_dialect kvmi_dialect_libkvmi, kvmi_dialect_v12, kvmi_dialect_rfc;
#define KVMI_DIALECTS 3u
extern const struct kvmi_dialect *const kvmi_dialects[KVMI_DIALECTS]; /* libkvmi's first: events are called in all as there */

const struct kvmi_command *kvmi_command_at(const struct kvmi_dialect *d, unsigned id); /* NULL: there is none */
const char *kvmi_event_name(const struct kvmi_dialect *d, unsigned event);             /* NULL: it is never sent */
/* The command is known, and always answered with -EOPNOTSUPP. */
bool kvmi_is_refused(const struct kvmi_command *c);

/* The VM of this number, 0: the oldest of the process. False: there is none. */
bool kvmi_find_vm(uint32_t number, struct kvmi_vm *out);

/* `options` stay the caller's, and as they are. NULL: no memory. */
struct kvmi_session *kvmi_session_create(uint32_t vm_number, const struct kvmi_options *options);
void kvmi_session_destroy(struct kvmi_session *s);
/* The process that listens. */
void kvmi_session_set_peer(struct kvmi_session *s, pid_t pid);
/* Why a command was refused, the last one for which there is more to say than its error; NULL: none was. Stays valid. */
const char *kvmi_session_refusal(const struct kvmi_session *s);
/* The letter of its dialect. */
char kvmi_session_dialect(const struct kvmi_session *s);
/* Why kvmi_handle was -EPROTO; stays valid. */
const char *kvmi_session_why(const struct kvmi_session *s);
/* Whether the tool wants to be told of the end. kvmi_unhook fills the event that does, once: as kvmi_next_event; -ESRCH: it does not. */
bool kvmi_session_wants_unhook(const struct kvmi_session *s);
ssize_t kvmi_unhook(struct kvmi_session *s, void *out);

#define KVMI_OUT_BYTES (sizeof(struct kvmi_head) + KVMI_MESSAGE_MAX)

/*
 * One message, `payload` of head->bytes bytes, none of which is trusted. Fills up to KVMI_OUT_BYTES at `out`: how many are to be sent, 0 if nothing.
 * -EPROTO: the protocol knows no answer, the connection has to end; -ESRCH: the VM has gone.
 */
ssize_t kvmi_handle(struct kvmi_session *s, const struct kvmi_head *head, const void *payload, void *out);

/* Readable when there may be an event to send; -1: only messages make some. It may change with every message. The session's. */
int kvmi_session_fd(const struct kvmi_session *s);
/* While no message is there: the next event to send, as kvmi_handle; 0 if there is none now. -ESRCH: the VM has gone. */
ssize_t kvmi_next_event(struct kvmi_session *s, void *out);

#endif
