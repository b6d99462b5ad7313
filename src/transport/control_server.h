/* SPDX-License-Identifier: MIT */
/*
 * The control socket of this process: who may come in, and a thread for each that did. Requests are the control front's.
 */
#ifndef VITRINE_TRANSPORT_CONTROL_SERVER_H
#define VITRINE_TRANSPORT_CONTROL_SERVER_H

/* Any thread, often: opens the socket if this process has none yet. A VM runs without one as well: failures are logged once. */
void control_server_start(void);

#endif
