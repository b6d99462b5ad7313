/* SPDX-License-Identifier: MIT */
/*
 * Allocation and lookup of guest RAM. See ram.h.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memfd.h"
#include "vmm/ram.h"

static int ram_piece_init(struct ram *ram, gpa_t gpa, uint64_t bytes, bool is_private)
{
    struct ram_piece *piece = &ram->piece[ram->n_pieces];
    int flags = is_private ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    int fd = is_private ? -1 : memfd_create_sealed("guest-ram", bytes);
    void *p;

    if (fd < 0 && !is_private)
        return fd;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) {
        int error = errno;

        if (fd >= 0)
            close(fd);
        return -error;
    }
    madvise(p, bytes, MADV_HUGEPAGE); /* a wish: kernels without huge pages refuse it */
    piece->gpa = gpa;
    piece->bytes = bytes;
    piece->hva = p;
    piece->fd = fd;
    ram->n_pieces++;
    return 0;
}

int ram_init(struct ram *ram, uint64_t bytes, bool is_private, struct vmm_error *error)
{
    uint64_t low = bytes < RAM_HOLE_START ? bytes : RAM_HOLE_START;
    int rc;

    memset(ram, 0, sizeof(*ram));
    rc = ram_piece_init(ram, 0, low, is_private);
    if (rc == 0 && bytes > low)
        rc = ram_piece_init(ram, RAM_HOLE_END, bytes - low, is_private);
    if (rc != 0) {
        ram_fini(ram);
        return error_set(error, rc, "cannot allocate %llu MiB of guest memory: %s", (unsigned long long)(bytes >> 20), strerror(-rc));
    }
    return 0;
}

void ram_fini(struct ram *ram)
{
    for (unsigned i = 0; i < ram->n_pieces; i++) {
        munmap(ram->piece[i].hva, ram->piece[i].bytes);
        if (ram->piece[i].fd >= 0)
            close(ram->piece[i].fd);
    }
    ram->n_pieces = 0;
}

void *ram_find(const struct ram *ram, gpa_t gpa, uint64_t bytes)
{
    if (bytes == 0)
        return NULL;
    for (unsigned i = 0; i < ram->n_pieces; i++) {
        const struct ram_piece *piece = &ram->piece[i];

        if (gpa >= piece->gpa && bytes <= piece->bytes && gpa - piece->gpa <= piece->bytes - bytes)
            return piece->hva + (gpa - piece->gpa);
    }
    return NULL;
}

uint64_t ram_low_end(const struct ram *ram)
{
    return ram->piece[0].bytes;
}
