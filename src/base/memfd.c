/* SPDX-License-Identifier: MIT */
/*
 * Memory files with seals. Called by fronts and lib; no state, no lock.
 */
#include "base/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static int create_with_seals(const char *name, uint64_t bytes, int seals)
{
    struct rlimit limit;
    if (!getrlimit(RLIMIT_FSIZE, &limit) && bytes > limit.rlim_cur)
        return -EFBIG; /* the kernel would send SIGXFSZ */
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (bytes > INT64_MAX || ftruncate(fd, (off_t)bytes) < 0 || fcntl(fd, F_ADD_SEALS, seals) < 0) {
        int error = bytes > INT64_MAX ? EFBIG : errno;
        close(fd);
        return -error;
    }
    return fd;
}

int memfd_create_sealed(const char *name, uint64_t bytes)
{
    return create_with_seals(name, bytes, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

int memfd_create_growing(const char *name, uint64_t bytes)
{
    return create_with_seals(name, bytes, F_SEAL_SHRINK | F_SEAL_SEAL);
}

int memfd_map(int fd, uint64_t offset, uint64_t bytes, hva_t *out)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (p == MAP_FAILED)
        return -errno;
    *out = p;
    return 0;
}
