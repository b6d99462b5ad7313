/* SPDX-License-Identifier: MIT */
/*
 * See virtio_net.h. A notification kicks the thread; the thread alone calls net_user and touches guest memory only under virtio.lock, so a reset has
 * nothing to wait for. Frames that find no receive buffer wait in a bounded backlog. Source: VIRTIO Version 1.2, "Network Device".
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/net_user.h"
#include "vmm/virtio_net.h"

enum { QUEUE_RX, QUEUE_TX };

#define NET_FRAME_MAX 65550u
#define NET_BACKLOG_MAX 512u
#define NET_HEADER_BYTES sizeof(struct virtio_net_hdr_v1)

struct net_frame {
    struct net_frame *next;
    size_t bytes;
    uint8_t data[];
};

struct virtio_net {
    struct virtio virtio;
    struct net_user *user;
    pthread_t thread;
    bool has_thread;
    _Atomic bool is_stopping;
    int kick_fd;
    struct virtio_net_config config;
    struct net_frame *backlog, **backlog_end; /* the thread's, as all below */
    unsigned n_backlog;
    struct virtq_chain chain;
    uint8_t frame[NET_FRAME_MAX];
};

static void net_kick(struct virtio_net *net)
{
    uint64_t one = 1;

    (void)!write(net->kick_fd, &one, sizeof(one)); /* fails only when full, and then the thread is awake */
}

static void net_notify(struct virtio *dev, unsigned queue)
{
    (void)queue;
    net_kick(dev->device);
}

/* With the lock. false: no buffer. */
static bool net_deliver(struct virtio_net *net, const void *frame, size_t bytes)
{
    struct virtio_net_hdr_v1 header = { .num_buffers = 1 };
    struct virtq_chain *chain = &net->chain;
    struct iovec *iov;

    if (!virtio_pop(&net->virtio, QUEUE_RX, chain))
        return false;
    iov = chain->iov + chain->n_out;
    if (chain->in_bytes < sizeof(header) + bytes) {
        virtio_break(&net->virtio); /* buffers must hold a full frame */
        return false;
    }
    virtio_copy_to(iov, chain->n_in, 0, &header, sizeof(header));
    virtio_copy_to(iov, chain->n_in, sizeof(header), frame, bytes);
    virtio_push(&net->virtio, QUEUE_RX, chain->head, (uint32_t)(sizeof(header) + bytes));
    virtio_signal(&net->virtio, QUEUE_RX);
    return true;
}

static void net_receive(void *sink, const void *data, size_t bytes)
{
    struct virtio_net *net = sink;
    struct net_frame *frame;
    bool is_done = false;

    if (!net->backlog) {
        pthread_mutex_lock(&net->virtio.lock);
        is_done = net_deliver(net, data, bytes);
        pthread_mutex_unlock(&net->virtio.lock);
    }
    if (is_done || net->n_backlog == NET_BACKLOG_MAX)
        return;
    frame = malloc(sizeof(*frame) + bytes);
    if (!frame)
        return; /* a lost frame is sent again */
    frame->next = NULL;
    frame->bytes = bytes;
    memcpy(frame->data, data, bytes);
    *net->backlog_end = frame;
    net->backlog_end = &frame->next;
    net->n_backlog++;
}

static void net_backlog_pop(struct virtio_net *net)
{
    struct net_frame *frame = net->backlog;

    net->backlog = frame->next;
    if (!net->backlog)
        net->backlog_end = &net->backlog;
    net->n_backlog--;
    free(frame);
}

static void net_flush_backlog(struct virtio_net *net)
{
    pthread_mutex_lock(&net->virtio.lock);
    do {
        while (net->backlog && net_deliver(net, net->backlog->data, net->backlog->bytes))
            net_backlog_pop(net);
    } while (net->backlog && virtio_arm(&net->virtio, QUEUE_RX));
    pthread_mutex_unlock(&net->virtio.lock);
}

/* The frame is copied out under the lock and sent without it, because the answer may come back through net_receive at once. */
static bool net_transmit_one(struct virtio_net *net)
{
    struct virtq_chain *chain = &net->chain;
    size_t bytes = 0;
    bool is_got;

    pthread_mutex_lock(&net->virtio.lock);
    is_got = virtio_pop(&net->virtio, QUEUE_TX, chain);
    if (is_got) {
        if (chain->out_bytes > NET_HEADER_BYTES && chain->out_bytes - NET_HEADER_BYTES <= sizeof(net->frame))
            bytes = virtio_copy_from(chain->iov, chain->n_out, NET_HEADER_BYTES, net->frame, sizeof(net->frame));
        virtio_push(&net->virtio, QUEUE_TX, chain->head, 0);
        virtio_signal(&net->virtio, QUEUE_TX);
    } else {
        is_got = virtio_arm(&net->virtio, QUEUE_TX);
    }
    pthread_mutex_unlock(&net->virtio.lock);
    if (bytes)
        net_user_send(net->user, net->frame, bytes);
    return is_got;
}

static void *net_thread(void *arg)
{
    struct virtio_net *net = arg;
    uint64_t count;

    while (!net->is_stopping) {
        net_user_poll(net->user, net->kick_fd);
        (void)!read(net->kick_fd, &count, sizeof(count));
        while (!net->is_stopping && net_transmit_one(net))
            ;
        net_flush_backlog(net);
    }
    return NULL;
}

static const struct virtio_ops net_ops = { .notify = net_notify };

int virtio_net_create(struct virtio_net **out, struct pci *pci, const struct ram *ram, const struct line_ops *line, struct vmm_error *error)
{
    static const struct virtio_type type = {
        .id = 1, .class_code = 0x020000, .n_queues = 2, .features = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS
    };
    static const uint8_t mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 }; /* locally administered */
    struct virtio_net *net = calloc(1, sizeof(*net));
    int rc = -ENOMEM;

    if (!net)
        goto fail;
    net->backlog_end = &net->backlog;
    memcpy(net->config.mac, mac, sizeof(mac));
    net->config.status = VIRTIO_NET_S_LINK_UP;
    net->virtio.config = &net->config;
    net->virtio.config_bytes = sizeof(net->config);
    net->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = net->kick_fd < 0 ? -errno : net_user_create(&net->user, net_receive, net);
    if (rc == 0)
        rc = virtio_init(&net->virtio, &type, &net_ops, net, pci, ram, line);
    if (rc == 0) {
        rc = -pthread_create(&net->thread, NULL, net_thread, net);
        net->has_thread = rc == 0;
    }
    if (rc == 0) {
        *out = net;
        return 0;
    }
fail:
    virtio_net_destroy(net);
    return error_set(error, rc, "cannot create the network device: %s", rc == -ENOSPC ? "too many devices" : strerror(-rc));
}

void virtio_net_destroy(struct virtio_net *net)
{
    if (!net)
        return;
    net->is_stopping = true;
    if (net->has_thread) {
        net_kick(net);
        pthread_join(net->thread, NULL);
        virtio_fini(&net->virtio);
    }
    net_user_destroy(net->user);
    while (net->backlog)
        net_backlog_pop(net);
    if (net->kick_fd >= 0)
        close(net->kick_fd);
    free(net);
}

void virtio_net_reset(struct virtio_net *net)
{
    virtio_reset(&net->virtio);
}
