/* SPDX-License-Identifier: MIT */
/*
 * Threads of ours inside a client's process: they must never run its signal handlers.
 */
#ifndef VITRINE_BASE_THREAD_H
#define VITRINE_BASE_THREAD_H

#include <pthread.h>

/* pthread_create with every signal blocked and a name of at most 15 characters. 0 or -errno. */
int thread_create(pthread_t *thread, const char *name, void *(*body)(void *), void *arg);

#endif
