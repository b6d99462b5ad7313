/* SPDX-License-Identifier: MIT */
/*
 * The control front: requests of src/abi/control.h about the VMs of this process. A table of calls; what they do is core's and introspect's. Transport brings
 * the bytes. A session is one connection, used by one thread at a time; what it holds is undone when it ends.
 */
#ifndef VITRINE_FRONT_CONTROL_CONTROL_H
#define VITRINE_FRONT_CONTROL_CONTROL_H

#include "abi/control.h"
#include "base/types.h"

struct control_session;

/* Tools that listen, and to which the process connects: transport's. 0 or -errno; names are of up to CONTROL_WHERE_MAX bytes, and an empty one is all. */
struct vitrine_endpoint;
struct control_endpoints {
    int (*attach)(uint32_t vm, const char *where);
    int (*detach)(uint32_t vm, const char *where); /* waits until everything that those tools had set is undone */
    unsigned (*list)(uint32_t vm, struct vitrine_endpoint *out, unsigned max);
};
/* Before there is a session. */
void control_set_endpoints(const struct control_endpoints *endpoints);

/* NULL: no memory. */
struct control_session *control_session_create(void);
void control_session_destroy(struct control_session *s);

/*
 * Answers one request: `payload` of head->bytes bytes, 8-aligned as `out` is. Fills *reply and up to CONTROL_PAYLOAD_MAX bytes at `out`, reply->bytes of them.
 * Nothing that a request says is trusted.
 */
void control_handle(struct control_session *s, const struct control_head *head, const void *payload, struct control_head *reply, void *out);
/* An fd that comes with the next request: the session's from now on. */
void control_give_fd(struct control_session *s, int fd);
/* The fds that go with the last reply: their number. They are the caller's to close. */
unsigned control_take_fds(struct control_session *s, int fd[CONTROL_FDS_MAX]);

#endif
