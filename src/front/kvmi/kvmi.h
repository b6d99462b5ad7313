/* SPDX-License-Identifier: MIT */
/*
 * The KVMI front: messages of src/abi/kvmi.h from one tool about one VM. A table of commands; what they do is core's and introspect's. Transport brings and
 * takes the bytes. A session is one connection, used by one thread; the vCPUs that it holds go on when it ends. It keeps no VM alive.
 */
#ifndef VITRINE_FRONT_KVMI_KVMI_H
#define VITRINE_FRONT_KVMI_KVMI_H

#include <sys/types.h>

#include "abi/kvmi.h"
#include "base/types.h"

struct kvmi_arg;
struct kvmi_session;

struct kvmi_vm {
    uint32_t number;
    bool is_ready; /* it has all the vCPUs that it starts with */
    struct kvmi_hello hello;
};

/* The oldest VM of the process; false: there is none. */
bool kvmi_find_vm(struct kvmi_vm *out);

/* NULL: no memory. */
struct kvmi_session *kvmi_session_create(uint32_t vm_number);
void kvmi_session_destroy(struct kvmi_session *s);

#define KVMI_OUT_BYTES (sizeof(struct kvmi_head) + KVMI_MESSAGE_MAX)

/*
 * One message, `payload` of head->bytes bytes, none of which is trusted. Fills up to KVMI_OUT_BYTES at `out`: how many are to be sent, 0 if nothing.
 * -EPROTO: the protocol knows no answer, the connection has to end; -ESRCH: the VM has gone.
 */
ssize_t kvmi_handle(struct kvmi_session *s, const struct kvmi_head *head, const void *payload, void *out);

/* While no message is there: the next event to send, as kvmi_handle; 0 if there is none now. -ESRCH: the VM has gone. */
ssize_t kvmi_next_event(struct kvmi_session *s, void *out);

/* For the page about what is served. */
struct kvmi_command {
    const char *name;
    bool is_vcpu, has_data; /* struct kvmi_vcpu precedes its request; its reply is more than an error */
    uint16_t bytes;         /* of the request; what a shorter one lacks is zero, what a longer one has behind is for the handler or for nobody */
    uint16_t must_be_zero;  /* one bit for each of the request's first 16 bytes */
    int (*handle)(struct kvmi_arg *a);
};
const struct kvmi_command *kvmi_command_at(unsigned id); /* NULL: there is none */
const char *kvmi_event_name(unsigned event);             /* NULL: it is never sent */

#endif
