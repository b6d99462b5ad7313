/* SPDX-License-Identifier: MIT */
/*
 * Which fds of this process stand for which objects. An fd is known by number, and proved by the file behind it (device and inode): a client may have closed
 * or replaced it without our seeing. Duplicates made by the client are found by their file. Any thread.
 */
#ifndef VITRINE_TRANSPORT_REGISTRY_H
#define VITRINE_TRANSPORT_REGISTRY_H

#include "base/types.h"

struct object;

/* Takes over the caller's reference. -EBADF, -ENOMEM: then the reference is the caller's still. */
int registry_add(int fd, struct object *o);
/* The object behind fd with a reference for the caller, or NULL. is_trusting: believe the number alone, without a system call. */
struct object *registry_find(int fd, bool is_trusting);
/* False: fd is not known to be ours. No lock, no system call; async-signal-safe. */
bool registry_may_have(int fd);
/* The first fd from this number on that is known to be ours, or -1. */
int registry_next(unsigned fd);
/* Closes the fd and drops its reference; if the object has another fd that we had not seen yet, that one keeps it. 0, -EBADF, or close's error. */
int registry_close(int fd);

/* The fd is being sent through a socket: its object lives until it has arrived, wherever else it is closed. 0, -EBADF, -ENOMEM. */
int registry_depart(int fd);
/* An fd has come out of a socket, or could not be sent. */
void registry_arrive(int fd);
/* False: nothing is on its way. No lock, no system call. */
bool registry_has_departed(void);

#endif
