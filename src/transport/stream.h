/* SPDX-License-Identifier: MIT */
/*
 * Whole messages over a stream socket. False: the other side has gone, or the socket's time limit has passed.
 */
#ifndef VITRINE_TRANSPORT_STREAM_H
#define VITRINE_TRANSPORT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

bool stream_receive(int fd, void *to, size_t bytes);
bool stream_send(int fd, const void *from, size_t bytes);

#endif
