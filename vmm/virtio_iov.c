/* SPDX-License-Identifier: MIT */
/*
 * Copies between a buffer and the pieces of guest memory that a descriptor chain names. Pure; the pieces were checked by virtq.c.
 */
#include <string.h>

#include "vmm/virtio.h"

static size_t virtio_copy(const struct iovec *iov, unsigned n, size_t skip, uint8_t *buf, size_t bytes, bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < n && done < bytes; i++) {
        uint8_t *p = iov[i].iov_base;
        size_t part = iov[i].iov_len;

        if (skip >= part) {
            skip -= part;
            continue;
        }
        p += skip;
        part -= skip;
        skip = 0;
        if (part > bytes - done)
            part = bytes - done;
        if (to_guest)
            memcpy(p, buf + done, part);
        else
            memcpy(buf + done, p, part);
        done += part;
    }
    return done;
}

size_t virtio_copy_from(const struct iovec *iov, unsigned n, size_t skip, void *buf, size_t bytes)
{
    return virtio_copy(iov, n, skip, buf, bytes, false);
}

size_t virtio_copy_to(const struct iovec *iov, unsigned n, size_t skip, const void *buf, size_t bytes)
{
    return virtio_copy(iov, n, skip, (uint8_t *)buf, bytes, true);
}
