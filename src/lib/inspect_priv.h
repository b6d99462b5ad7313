/* SPDX-License-Identifier: MIT */
/*
 * What the files of the inspection API share: a connection to the process that runs a VM.
 */
#ifndef VITRINE_LIB_INSPECT_PRIV_H
#define VITRINE_LIB_INSPECT_PRIV_H

#include "abi/control.h"
#include "vitrine/inspect.h"

struct inspect_ring;

struct vitrine_vm {
    int fd;
    uint32_t number, sequence;
    struct inspect_ring *ring; /* NULL: it is told of no events */
};

/* inspect_events.c. Opening: before anything that may be told, so that nothing is lost. */
int inspect_ring_open(struct vitrine_vm *vm);
void inspect_ring_close(struct inspect_ring *r);

/*
 * One request and its reply. `more` follows `request` on the wire. Up to reply_max bytes are written to `reply`; their number, or -1 and errno. An answer of
 * another size than is possible is EPROTO.
 */
ssize_t inspect_call(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, const void *more, uint32_t more_bytes, void *reply,
                     size_t reply_max);

/* The same, with the fds that come with the reply: up to CONTROL_FDS_MAX, the caller's, also if it fails; *n_fds says how many. */
ssize_t inspect_call_fds(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, void *reply, size_t reply_max, int *fd,
                         unsigned *n_fds);

/* The same with an fd that goes with the request and stays the caller's; the reply has nothing: 0 or -1. EBADF: it is none; EPERM. */
int inspect_call_giving(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, int fd);

/* A call whose reply has exactly this size: 0 or -1. */
int inspect_call_exact(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, void *reply, size_t reply_bytes);

/* A call about the VM that answers an array of items: up to n to `out`, the number there are. */
int inspect_call_array(struct vitrine_vm *vm, enum control_call call, void *out, size_t item_bytes, unsigned n);

/* The reply to CONTROL_SHARE: which files the memory is in, by address. */
struct inspect_pieces {
    struct control_piece *piece;
    unsigned n, n_fds;
    int fd[CONTROL_FDS_MAX];
};

/* 0 or -1; ENOTSUP: there are none. */
int inspect_pieces_get(struct vitrine_vm *vm, struct inspect_pieces *p);
void inspect_pieces_put(struct inspect_pieces *p);
/* What a process says of its memory need not be so. */
bool inspect_piece_is_sound(const struct control_piece *c, const struct inspect_pieces *p);

/* Connects to a process by the name of its socket, which must be of this user's or root's. -1 and errno. */
int inspect_connect(struct vitrine_vm *c, const char *name, uint32_t *pid);

#endif
