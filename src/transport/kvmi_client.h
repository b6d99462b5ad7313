/* SPDX-License-Identifier: MIT */
/*
 * One connection to a KVMI tool that listens: connect, handshake, messages. Messages are the KVMI front's, and what is done about failures is the endpoint's
 * (kvmi_endpoint.c).
 */
#ifndef VITRINE_TRANSPORT_KVMI_CLIENT_H
#define VITRINE_TRANSPORT_KVMI_CLIENT_H

#include <stdatomic.h>

#include "transport/kvmi_where.h"

/* The connection in the eyes of other threads. */
struct kvmi_client {
    _Atomic bool is_leaving;   /* set by them: the tool is told, if it wants to be, and may tidy up */
    _Atomic bool wants_unhook; /* it wants to be; else whoever sets is_leaving shuts the socket down */
    _Atomic char dialect;      /* 'a', 'b', 'c'; 0: not known yet */
    /* Why a command was refused, the last of the connection's for which there is more to say than its error; NULL: none was. */
    const char *_Atomic refusal;
    _Atomic uint64_t refusal_ns; /* CLOCK_REALTIME, set before */
};

/* A connected fd, or -errno. Waits not much longer than a second. */
int kvmi_client_connect(const struct kvmi_where *to);
/* NULL, or why there will be no conversation. */
const char *kvmi_client_greet(int fd, const struct kvmi_where *to, const struct kvmi_hello *hello);
/* Until one side ends: why. */
const char *kvmi_client_serve(int fd, const struct kvmi_where *to, uint32_t vm_number, struct kvmi_client *client);

#endif
