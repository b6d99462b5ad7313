/* SPDX-License-Identifier: MIT */
/*
 * See virtio_blk.h. The vCPU that notifies only kicks an eventfd; the thread pops a request under virtio.lock, does the I/O without it and pushes
 * the answer under it again. A reset waits until the thread holds no request. Source: VIRTIO Version 1.2, "Block Device".
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/virtio_blk.h"

#define BLK_SECTOR_BYTES 512u
#define BLK_SEGMENTS_MAX 126

struct virtio_blk {
    struct virtio virtio;
    pthread_cond_t idle;
    bool is_busy, is_stopping, has_thread; /* virtio.lock */
    pthread_t thread;
    int fd, kick_fd;
    bool is_readonly;
    char id[VIRTIO_BLK_ID_BYTES];
    struct virtio_blk_config config;
    struct virtq_chain chain; /* the thread's */
};

static void blk_kick(struct virtio_blk *blk)
{
    uint64_t one = 1;

    (void)!write(blk->kick_fd, &one, sizeof(one)); /* can only fail when the counter is full, and then the thread is awake */
}

static void blk_notify(struct virtio *dev, unsigned queue)
{
    (void)queue;
    blk_kick(dev->device);
}

static void blk_reset(struct virtio *dev)
{
    struct virtio_blk *blk = dev->device;

    while (blk->is_busy)
        pthread_cond_wait(&blk->idle, &dev->lock);
}

/* Narrows the list to [skip, skip + bytes) in place; returns the new count and where it starts. */
static unsigned blk_iov_cut(struct iovec **iov, unsigned n, size_t skip, size_t bytes)
{
    struct iovec *first = *iov;
    unsigned left = 0;

    while (n && skip >= first->iov_len) {
        skip -= first->iov_len;
        first++;
        n--;
    }
    *iov = first;
    if (n) {
        first->iov_base = (uint8_t *)first->iov_base + skip;
        first->iov_len -= skip;
    }
    while (left < n && bytes) {
        if (first[left].iov_len > bytes)
            first[left].iov_len = bytes;
        bytes -= first[left].iov_len;
        left++;
    }
    return left;
}

static bool blk_transfer(struct virtio_blk *blk, struct iovec *iov, unsigned n, uint64_t offset, size_t bytes, bool is_write)
{
    while (bytes) {
        ssize_t done = is_write ? pwritev(blk->fd, iov, (int)n, (off_t)offset) : preadv(blk->fd, iov, (int)n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) /* an error, or the file is shorter than it was */
            return false;
        offset += (uint64_t)done;
        bytes -= (size_t)done;
        n = blk_iov_cut(&iov, n, (size_t)done, bytes);
    }
    return true;
}

static uint8_t blk_read_write(struct virtio_blk *blk, uint64_t sector, bool is_write, uint32_t *written)
{
    struct virtq_chain *chain = &blk->chain;
    size_t bytes = is_write ? chain->out_bytes - sizeof(struct virtio_blk_outhdr) : chain->in_bytes - 1;
    struct iovec *iov = is_write ? chain->iov : chain->iov + chain->n_out;
    unsigned n = is_write ? chain->n_out : chain->n_in;

    if (bytes % BLK_SECTOR_BYTES || sector > blk->config.capacity || bytes / BLK_SECTOR_BYTES > blk->config.capacity - sector)
        return VIRTIO_BLK_S_IOERR;
    if (is_write && blk->is_readonly)
        return VIRTIO_BLK_S_IOERR;
    n = blk_iov_cut(&iov, n, is_write ? sizeof(struct virtio_blk_outhdr) : 0, bytes);
    if (!blk_transfer(blk, iov, n, sector * BLK_SECTOR_BYTES, bytes, is_write))
        return VIRTIO_BLK_S_IOERR;
    if (!is_write)
        *written = (uint32_t)bytes;
    return VIRTIO_BLK_S_OK;
}

static uint8_t blk_handle(struct virtio_blk *blk, const struct virtio_blk_outhdr *header, uint32_t *written)
{
    struct virtq_chain *chain = &blk->chain;

    switch (header->type) {
    case VIRTIO_BLK_T_IN:
        return blk_read_write(blk, header->sector, false, written);
    case VIRTIO_BLK_T_OUT:
        return blk_read_write(blk, header->sector, true, written);
    case VIRTIO_BLK_T_FLUSH:
        return fdatasync(blk->fd) == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
    case VIRTIO_BLK_T_GET_ID:
        if (chain->in_bytes - 1 < sizeof(blk->id))
            return VIRTIO_BLK_S_IOERR;
        *written = (uint32_t)virtio_copy_to(chain->iov + chain->n_out, chain->n_in, 0, blk->id, sizeof(blk->id));
        return VIRTIO_BLK_S_OK;
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* Without the lock. false: not even a place for the status byte. */
static bool blk_request(struct virtio_blk *blk, uint32_t *written)
{
    struct virtq_chain *chain = &blk->chain;
    struct virtio_blk_outhdr header;
    struct iovec *last;
    uint8_t *status;

    *written = 0;
    if (chain->n_in == 0 || virtio_copy_from(chain->iov, chain->n_out, 0, &header, sizeof(header)) != sizeof(header))
        return false;
    last = &chain->iov[chain->n_out + chain->n_in - 1];
    status = (uint8_t *)last->iov_base + last->iov_len - 1; /* found before the list is cut */
    *status = blk_handle(blk, &header, written);
    *written += 1;
    return true;
}

static void blk_drain(struct virtio_blk *blk)
{
    struct virtio *dev = &blk->virtio;
    uint32_t written;

    pthread_mutex_lock(&dev->lock);
    do {
        while (!blk->is_stopping && virtio_pop(dev, 0, &blk->chain)) {
            uint16_t head = blk->chain.head;
            bool is_good;

            blk->is_busy = true;
            pthread_mutex_unlock(&dev->lock);
            is_good = blk_request(blk, &written);
            pthread_mutex_lock(&dev->lock);
            blk->is_busy = false;
            pthread_cond_broadcast(&blk->idle);
            if (!is_good)
                virtio_break(dev);
            virtio_push(dev, 0, head, written); /* does nothing if the device was reset meanwhile */
            virtio_signal(dev, 0);
        }
    } while (!blk->is_stopping && virtio_arm(dev, 0));
    pthread_mutex_unlock(&dev->lock);
}

static void *blk_thread(void *arg)
{
    struct virtio_blk *blk = arg;
    uint64_t count;

    for (;;) {
        ssize_t n = read(blk->kick_fd, &count, sizeof(count));
        bool is_stopping;

        if (n < 0 && errno == EINTR)
            continue;
        pthread_mutex_lock(&blk->virtio.lock);
        is_stopping = blk->is_stopping;
        pthread_mutex_unlock(&blk->virtio.lock);
        if (is_stopping || n < 0)
            return NULL;
        blk_drain(blk);
    }
}

static const struct virtio_ops blk_ops = { .notify = blk_notify, .reset = blk_reset };

static int blk_open(struct virtio_blk *blk, const char *path, struct vmm_error *error)
{
    struct stat st;
    off_t bytes;

    blk->fd = open(path, (blk->is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK); /* never wait for the other end of a FIFO */
    if (blk->fd < 0)
        return error_set(error, -errno, "cannot open disk '%s': %s", path, strerror(errno));
    if (fstat(blk->fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(error, -EINVAL, "cannot use disk '%s': it is neither a file nor a block device", path);
    if (flock(blk->fd, (blk->is_readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return error_set(error, -EBUSY, "cannot use disk '%s': it is in use (two read-only users may share it by ',ro')", path);
    bytes = lseek(blk->fd, 0, SEEK_END);
    if (bytes < 0)
        return error_set(error, -errno, "cannot find the size of disk '%s': %s", path, strerror(errno));
    if (bytes == 0 || bytes % BLK_SECTOR_BYTES)
        return error_set(error, -EINVAL, "cannot use disk '%s': its size, %lld bytes, is not a positive multiple of 512", path, (long long)bytes);
    blk->config.capacity = (uint64_t)bytes / BLK_SECTOR_BYTES;
    return 0;
}

static int blk_start(struct virtio_blk *blk, struct pci *pci, const struct ram *ram, const struct line_ops *line)
{
    struct virtio_type type = { .id = 2, .class_code = 0x018000, .n_queues = 1 };
    int rc;

    type.features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH;
    if (blk->is_readonly)
        type.features |= 1ull << VIRTIO_BLK_F_RO;
    blk->config.seg_max = BLK_SEGMENTS_MAX;
    blk->config.blk_size = BLK_SECTOR_BYTES;
    blk->virtio.config = &blk->config;
    blk->virtio.config_bytes = sizeof(blk->config);
    blk->kick_fd = eventfd(0, EFD_CLOEXEC);
    if (blk->kick_fd < 0)
        return -errno;
    rc = virtio_init(&blk->virtio, &type, &blk_ops, blk, pci, ram, line);
    if (rc != 0)
        return rc;
    rc = -pthread_create(&blk->thread, NULL, blk_thread, blk);
    blk->has_thread = rc == 0;
    return rc;
}

int virtio_blk_create(struct virtio_blk **out, const char *path, bool is_readonly, unsigned number, struct pci *pci, const struct ram *ram,
                      const struct line_ops *line, struct vmm_error *error)
{
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    int rc;

    if (!blk)
        return error_set(error, -ENOMEM, "cannot create disk '%s': %s", path, strerror(ENOMEM));
    blk->fd = blk->kick_fd = -1;
    blk->is_readonly = is_readonly;
    snprintf(blk->id, sizeof(blk->id), "vitrine-disk-%u", number);
    pthread_cond_init(&blk->idle, NULL);
    rc = blk_open(blk, path, error);
    if (rc == 0) {
        rc = blk_start(blk, pci, ram, line);
        if (rc != 0)
            error_set(error, rc, "cannot create disk '%s': %s", path, rc == -ENOSPC ? "too many devices" : strerror(-rc));
    }
    if (rc != 0) {
        virtio_blk_destroy(blk);
        return rc;
    }
    *out = blk;
    return 0;
}

void virtio_blk_destroy(struct virtio_blk *blk)
{
    if (!blk)
        return;
    if (blk->has_thread) {
        pthread_mutex_lock(&blk->virtio.lock);
        blk->is_stopping = true;
        pthread_mutex_unlock(&blk->virtio.lock);
        blk_kick(blk);
        pthread_join(blk->thread, NULL);
        virtio_fini(&blk->virtio);
    }
    pthread_cond_destroy(&blk->idle);
    if (blk->kick_fd >= 0)
        close(blk->kick_fd);
    if (blk->fd >= 0)
        close(blk->fd);
    free(blk);
}

void virtio_blk_reset(struct virtio_blk *blk)
{
    virtio_reset(&blk->virtio);
}
