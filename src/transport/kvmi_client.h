/* SPDX-License-Identifier: MIT */
/*
 * KVMI's side of the VM: connects to the socket on which a tool listens, and serves it. Messages are the KVMI front's.
 */
#ifndef VITRINE_TRANSPORT_KVMI_CLIENT_H
#define VITRINE_TRANSPORT_KVMI_CLIENT_H

/* NULL, or why VITRINE_KVMI cannot have this value: "unix:PATH" or "unix:PATH,key=KEY". */
const char *kvmi_client_check(const char *where);

/* Any thread, after a VM was made: connects if VITRINE_KVMI says where to and nobody does yet. Failures are logged. */
void kvmi_client_start(void);

#endif
