/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues with indirect descriptors and event indices. Source: Virtual I/O Device (VIRTIO) Version 1.2, "Split Virtqueues". See virtq.h.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "vmm/virtq.h"

void virtq_reset(struct virtq *q, uint16_t size_max)
{
    memset(q, 0, sizeof(*q));
    q->size = q->size_max = size_max;
    q->vector = 0xffff;
}

int virtq_enable(struct virtq *q, const struct ram *ram, bool has_event_idx)
{
    uint64_t n = q->size;

    if (n == 0 || n > q->size_max || (n & (n - 1)) || (q->desc_gpa & 15) || (q->avail_gpa & 1) || (q->used_gpa & 3))
        return -EINVAL;
    /* The last two bytes of each ring are its event index. */
    q->desc = ram_find(ram, q->desc_gpa, n * sizeof(struct vring_desc));
    q->avail = ram_find(ram, q->avail_gpa, 6 + n * 2);
    q->used = ram_find(ram, q->used_gpa, 6 + n * sizeof(struct vring_used_elem));
    if (!q->desc || !q->avail || !q->used)
        return -EINVAL;
    q->has_event_idx = has_event_idx;
    q->last_avail = q->used_idx = q->signalled = 0;
    q->is_enabled = true;
    return 0;
}

static uint16_t virtq_avail_idx(const struct virtq *q)
{
    return __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE);
}

static int virtq_chain_add(struct virtq_chain *chain, const struct ram *ram, const struct vring_desc *d)
{
    bool is_in = d->flags & VRING_DESC_F_WRITE;
    void *p;

    if (!is_in && chain->n_in)
        return -EINVAL; /* what the device reads comes first */
    if (d->len == 0)
        return 0;
    p = ram_find(ram, d->addr, d->len);
    if (!p || chain->n_out + chain->n_in == VIRTQ_IOV_MAX)
        return -EINVAL;
    chain->iov[chain->n_out + chain->n_in] = (struct iovec){ .iov_base = p, .iov_len = d->len };
    if (is_in) {
        chain->n_in++;
        chain->in_bytes += d->len;
    } else {
        chain->n_out++;
        chain->out_bytes += d->len;
    }
    return 0;
}

/* One read of guest memory: the driver may change a descriptor between our check and our use. */
static struct vring_desc virtq_desc_read(const struct vring_desc *p)
{
    struct vring_desc d;

    memcpy(&d, p, sizeof(d));
    __asm__ volatile("" : "+m"(d));
    return d;
}

static int virtq_walk(struct virtq_chain *chain, const struct ram *ram, const struct vring_desc *table, unsigned n, unsigned i, bool is_indirect)
{
    for (unsigned steps = 0; steps < n; steps++) {
        struct vring_desc d;

        if (i >= n)
            return -EINVAL;
        d = virtq_desc_read(&table[i]);
        if (d.flags & VRING_DESC_F_INDIRECT) {
            const struct vring_desc *inner = ram_find(ram, d.addr, d.len);

            if (is_indirect || (d.flags & VRING_DESC_F_NEXT) || !inner || d.len % sizeof(d) || d.len / sizeof(d) > 32768)
                return -EINVAL;
            return virtq_walk(chain, ram, inner, d.len / sizeof(d), 0, true);
        }
        if (virtq_chain_add(chain, ram, &d) != 0)
            return -EINVAL;
        if (!(d.flags & VRING_DESC_F_NEXT))
            return 0;
        i = d.next;
    }
    return -EINVAL; /* longer than the table: a loop */
}

int virtq_pop(struct virtq *q, const struct ram *ram, struct virtq_chain *chain)
{
    uint16_t waiting;

    if (!q->is_enabled)
        return 0;
    waiting = virtq_avail_idx(q) - q->last_avail;
    if (waiting == 0)
        return 0;
    if (waiting > q->size)
        return -EINVAL;
    chain->head = __atomic_load_n(&q->avail->ring[q->last_avail % q->size], __ATOMIC_RELAXED);
    chain->n_out = chain->n_in = 0;
    chain->out_bytes = chain->in_bytes = 0;
    if (virtq_walk(chain, ram, q->desc, q->size, chain->head, false) != 0)
        return -EINVAL;
    q->last_avail++;
    return 1;
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t written_bytes)
{
    struct vring_used_elem *e = &q->used->ring[q->used_idx % q->size];

    e->id = head;
    e->len = written_bytes;
    q->used_idx++;
    __atomic_store_n(&q->used->idx, q->used_idx, __ATOMIC_RELEASE);
}

bool virtq_arm(struct virtq *q)
{
    if (!q->is_enabled)
        return false;
    if (q->has_event_idx)
        __atomic_store_n((uint16_t *)&q->used->ring[q->size], q->last_avail, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_seq_cst); /* our wish is visible before we look once more */
    return virtq_avail_idx(q) != q->last_avail;
}

bool virtq_needs_interrupt(struct virtq *q)
{
    uint16_t old = q->signalled, event;

    if (!q->is_enabled || q->used_idx == old)
        return false;
    atomic_thread_fence(memory_order_seq_cst);
    q->signalled = q->used_idx;
    if (!q->has_event_idx)
        return !(__atomic_load_n(&q->avail->flags, __ATOMIC_RELAXED) & VRING_AVAIL_F_NO_INTERRUPT);
    event = __atomic_load_n(&q->avail->ring[q->size], __ATOMIC_RELAXED);
    return (uint16_t)(q->used_idx - event - 1) < (uint16_t)(q->used_idx - old);
}
