/* SPDX-License-Identifier: MIT */
/*
 * KVMI's side of the VM: the sockets on which tools listen, each with a thread that connects, serves and connects again. They come from VITRINE_KVMI, one in a
 * line, and from the control socket while a VM runs.
 */
#ifndef VITRINE_TRANSPORT_KVMI_ENDPOINT_H
#define VITRINE_TRANSPORT_KVMI_ENDPOINT_H

#include "front/control/control.h"

#define KVMI_ENVIRONMENT "VITRINE_KVMI"

/* Any thread, after something of a VM was made: connects where VITRINE_KVMI says, if nobody does yet. Failures are logged. */
void kvmi_endpoint_start(void);

/* For the control front; its functions may be called by any thread. */
extern const struct control_endpoints kvmi_endpoints;

#endif
