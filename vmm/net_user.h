/* SPDX-License-Identifier: MIT */
/*
 * User-mode networking: the guest behind a NAT that needs no privilege (libslirp). One thread, the network device's, makes every call.
 * The guest gets 10.0.2.15 by DHCP; 10.0.2.2 is the host's loopback, 10.0.2.3 its name server.
 */
#ifndef VITRINE_VMM_NET_USER_H
#define VITRINE_VMM_NET_USER_H

#include "base/types.h"

struct net_user;

/* `receive` gets each frame for the guest, from inside net_user_poll or net_user_send. -ENOMEM. */
int net_user_create(struct net_user **out, void (*receive)(void *sink, const void *frame, size_t bytes), void *sink);
void net_user_destroy(struct net_user *net);
void net_user_send(struct net_user *net, const void *frame, size_t bytes); /* a frame from the guest */
/* Waits for the network or for kick_fd to become readable, then does what is due. */
void net_user_poll(struct net_user *net, int kick_fd);

#endif
