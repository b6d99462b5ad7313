/* SPDX-License-Identifier: MIT */
/*
 * Guest writes that signal an eventfd instead of leaving to the client.
 */
#ifndef VITRINE_CORE_IOEVENTFD_H
#define VITRINE_CORE_IOEVENTFD_H

#include "base/types.h"

struct vm;

struct ioeventfd_key {
    bool is_pio, has_datamatch;
    uint64_t addr, datamatch;
    uint32_t bytes; /* 1 2 4 8, or 0: any length (then no datamatch) */
    int fd;
};

/* The fd is duplicated. -EINVAL length, wrap, no eventfd; -EBADF; -EEXIST one with the same match is there; -ENOMEM, -EMFILE. */
int ioeventfd_assign(struct vm *vm, const struct ioeventfd_key *key);
int ioeventfd_deassign(struct vm *vm, const struct ioeventfd_key *key); /* -ENOENT */
void ioeventfd_fini(struct vm *vm);

#endif
