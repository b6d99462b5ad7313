/* SPDX-License-Identifier: MIT */
/*
 * See virtio_rng.h. Source: Virtual I/O Device (VIRTIO) Version 1.2, "Entropy Device". Runs on the vCPU thread that notifies, under virtio.lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "vmm/virtio_rng.h"

#define RNG_REQUEST_MAX 65536 /* a longer buffer is filled in part, which the specification allows */

struct virtio_rng {
    struct virtio virtio;
    struct virtq_chain chain;
};

static uint32_t rng_fill(const struct virtq_chain *chain)
{
    uint32_t total = 0;

    for (unsigned i = 0; i < chain->n_in && total < RNG_REQUEST_MAX; i++) {
        size_t want = chain->iov[chain->n_out + i].iov_len;
        ssize_t n;

        if (want > RNG_REQUEST_MAX - total)
            want = RNG_REQUEST_MAX - total;
        n = getrandom(chain->iov[chain->n_out + i].iov_base, want, 0);
        if (n > 0)
            total += (uint32_t)n;
        if (n != (ssize_t)want)
            break;
    }
    return total;
}

static void rng_notify(struct virtio *dev, unsigned queue)
{
    struct virtio_rng *rng = dev->device;

    do {
        while (virtio_pop(dev, queue, &rng->chain)) {
            uint32_t n = rng_fill(&rng->chain);

            if (n == 0) {
                virtio_break(dev);
                return;
            }
            virtio_push(dev, queue, rng->chain.head, n);
        }
    } while (virtio_arm(dev, queue));
    virtio_signal(dev, queue);
}

static const struct virtio_ops rng_ops = { .notify = rng_notify };

int virtio_rng_create(struct virtio_rng **out, struct pci *pci, const struct ram *ram, const struct line_ops *line, struct vmm_error *error)
{
    static const struct virtio_type type = { .id = 4, .class_code = 0x00ff00, .n_queues = 1 };
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    int rc = rng ? virtio_init(&rng->virtio, &type, &rng_ops, rng, pci, ram, line) : -ENOMEM;

    if (rc != 0) {
        free(rng);
        return error_set(error, rc, "cannot create the entropy device");
    }
    *out = rng;
    return 0;
}

void virtio_rng_destroy(struct virtio_rng *rng)
{
    if (!rng)
        return;
    virtio_fini(&rng->virtio);
    free(rng);
}

void virtio_rng_reset(struct virtio_rng *rng)
{
    virtio_reset(&rng->virtio);
}
