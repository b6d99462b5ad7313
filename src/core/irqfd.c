/* SPDX-License-Identifier: MIT */
/*
 * Irqfds: an epoll thread per VM turns eventfd counts into interrupts.
 *
 * Locks, outermost first: assign_lock serialises assign and deassign, and is the only one held while notifiers come and go (routing write lock). The list
 * changes under inject_lock and then ack_lock, and is read under any of the three: inject_lock while the thread injects, so that nothing comes after deassign;
 * ack_lock, a leaf, by an acknowledgement, which arrives with the routing read-locked.
 */
#include "core/irqfd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "core/vm.h"
#include "core/vm_priv.h"

struct irqfd {
    uint64_t cookie; /* epoll's: never reused, so a late event finds nothing */
    int fd, resample_fd;
    uint32_t gsi;
    struct irqfd *next;
};

/* One per GSI with resampling irqfds: the line is shared by them and drops once per acknowledgement, before any of them is told. */
struct resampler {
    struct irq_ack_notifier notifier;
    struct vm *vm;
    unsigned users;
    struct resampler *next;
};

struct irqfds {
    struct vm *vm;
    pthread_mutex_t assign_lock, inject_lock, ack_lock;
    struct irqfd *list;
    struct resampler *resamplers;
    uint64_t next_cookie;
    int epoll_fd, stop_fd;
    pthread_t thread;
};

#define STOP_COOKIE 0

static void list_lock(struct irqfds *s)
{
    pthread_mutex_lock(&s->inject_lock);
    pthread_mutex_lock(&s->ack_lock);
}

static void list_unlock(struct irqfds *s)
{
    pthread_mutex_unlock(&s->ack_lock);
    pthread_mutex_unlock(&s->inject_lock);
}

static void inject(struct irqfds *s, uint64_t cookie)
{
    pthread_mutex_lock(&s->inject_lock);
    for (struct irqfd *f = s->list; f; f = f->next) {
        if (f->cookie != cookie)
            continue;
        if (eventfd_consume(f->fd)) {
            if (f->resample_fd >= 0) {
                irq_set_level(s->vm, f->gsi, IRQ_SOURCE_RESAMPLE, true);
            } else {
                irq_set_level(s->vm, f->gsi, IRQ_SOURCE_CLIENT, true);
                irq_set_level(s->vm, f->gsi, IRQ_SOURCE_CLIENT, false);
            }
        }
        break;
    }
    pthread_mutex_unlock(&s->inject_lock);
}

static void *irqfd_thread(void *arg)
{
    struct irqfds *s = arg;
    struct epoll_event events[32];
    for (;;) {
        int n = epoll_wait(s->epoll_fd, events, 32, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == STOP_COOKIE)
                return NULL;
            inject(s, events[i].data.u64);
        }
        if (n < 0 && errno != EINTR)
            return NULL; /* the client closed our epoll fd: nothing left to wait for */
    }
}

static int watch(struct irqfds *s, int fd, uint64_t cookie)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = cookie };
    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int start(struct irqfds *s)
{
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll_fd < 0)
        return -errno;
    s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = s->stop_fd < 0 ? -errno : watch(s, s->stop_fd, STOP_COOKIE);
    if (!error)
        error = thread_create(&s->thread, "vitrine-irqfd", irqfd_thread, s);
    if (error) {
        if (s->stop_fd >= 0)
            close(s->stop_fd);
        close(s->epoll_fd);
    }
    return error;
}

/* The VM's irqfds, made at first use under vm->lock. */
static int get_irqfds(struct vm *vm, struct irqfds **out)
{
    int error = 0;
    pthread_mutex_lock(&vm->lock);
    struct irqfds *s = vm->irq.irqfds;
    if (!s) {
        s = calloc(1, sizeof *s);
        error = s ? 0 : -ENOMEM;
        if (!error) {
            s->vm = vm;
            s->next_cookie = STOP_COOKIE + 1;
            pthread_mutex_init(&s->assign_lock, NULL);
            pthread_mutex_init(&s->inject_lock, NULL);
            pthread_mutex_init(&s->ack_lock, NULL);
            error = start(s);
            if (error)
                free(s);
            else
                vm->irq.irqfds = s;
        }
    }
    pthread_mutex_unlock(&vm->lock);
    if (!error)
        *out = s;
    return error;
}

static void acked(struct irq_ack_notifier *n)
{
    struct resampler *r = CONTAINER_OF(n, struct resampler, notifier);
    struct irqfds *s = r->vm->irq.irqfds;
    irq_set_level(r->vm, n->gsi, IRQ_SOURCE_RESAMPLE, false);
    pthread_mutex_lock(&s->ack_lock);
    for (struct irqfd *f = s->list; f; f = f->next) {
        if (f->gsi == n->gsi && f->resample_fd >= 0)
            eventfd_signal(f->resample_fd);
    }
    pthread_mutex_unlock(&s->ack_lock);
}

static int resampler_get(struct irqfds *s, uint32_t gsi)
{
    struct resampler *r = s->resamplers;
    while (r && r->notifier.gsi != gsi)
        r = r->next;
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r)
            return -ENOMEM;
        r->vm = s->vm;
        r->notifier.gsi = gsi;
        r->notifier.acked = acked;
        r->next = s->resamplers;
        s->resamplers = r;
        irq_add_ack_notifier(s->vm, &r->notifier);
    }
    r->users++;
    return 0;
}

static void resampler_put(struct irqfds *s, uint32_t gsi)
{
    for (struct resampler **p = &s->resamplers; *p; p = &(*p)->next) {
        struct resampler *r = *p;
        if (r->notifier.gsi != gsi)
            continue;
        if (--r->users == 0) {
            irq_remove_ack_notifier(s->vm, &r->notifier);
            irq_set_level(s->vm, gsi, IRQ_SOURCE_RESAMPLE, false);
            *p = r->next;
            free(r);
        }
        return;
    }
}

static void free_irqfd(struct irqfd *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->resample_fd >= 0)
        close(f->resample_fd);
    free(f);
}

static int make_irqfd(int fd, uint32_t gsi, int resample_fd, struct irqfd **out)
{
    struct irqfd *f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->gsi = gsi;
    f->resample_fd = -1;
    f->fd = eventfd_dup(fd);
    int error = f->fd < 0 ? f->fd : 0;
    if (!error && resample_fd >= 0) {
        f->resample_fd = eventfd_dup(resample_fd);
        error = f->resample_fd < 0 ? f->resample_fd : 0;
    }
    if (error)
        free_irqfd(f);
    else
        *out = f;
    return error;
}

static int add(struct irqfds *s, struct irqfd *f)
{
    for (struct irqfd *other = s->list; other; other = other->next) {
        if (eventfd_is_same(other->fd, f->fd))
            return -EBUSY;
    }
    int error = f->resample_fd >= 0 ? resampler_get(s, f->gsi) : 0;
    if (error)
        return error;
    list_lock(s);
    f->cookie = s->next_cookie++;
    f->next = s->list;
    s->list = f;
    error = watch(s, f->fd, f->cookie);
    if (error)
        s->list = f->next;
    list_unlock(s);
    if (error && f->resample_fd >= 0)
        resampler_put(s, f->gsi);
    return error;
}

int irqfd_assign(struct vm *vm, int fd, uint32_t gsi, int resample_fd)
{
    if (gsi >= IRQ_GSI_MAX)
        return -EINVAL;
    struct irqfds *s;
    struct irqfd *f;
    int error = make_irqfd(fd, gsi, resample_fd, &f);
    if (error)
        return error;
    error = get_irqfds(vm, &s);
    if (!error) {
        pthread_mutex_lock(&s->assign_lock);
        error = add(s, f);
        pthread_mutex_unlock(&s->assign_lock);
    }
    if (error)
        free_irqfd(f);
    return error;
}

int irqfd_deassign(struct vm *vm, int fd, uint32_t gsi)
{
    int probe = eventfd_dup(fd);
    if (probe < 0)
        return probe;
    close(probe);
    struct irqfds *s;
    int error = get_irqfds(vm, &s);
    if (error)
        return error;
    pthread_mutex_lock(&s->assign_lock);
    for (struct irqfd **p = &s->list; *p;) {
        struct irqfd *f = *p;
        if (f->gsi != gsi || !eventfd_is_same(f->fd, fd)) {
            p = &f->next;
            continue;
        }
        list_lock(s);
        *p = f->next;
        epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, f->fd, NULL);
        list_unlock(s);
        if (f->resample_fd >= 0)
            resampler_put(s, f->gsi);
        free_irqfd(f);
    }
    pthread_mutex_unlock(&s->assign_lock);
    return 0;
}

void irqfd_fini(struct vm *vm)
{
    struct irqfds *s = vm->irq.irqfds;
    if (!s)
        return;
    eventfd_signal(s->stop_fd);
    pthread_join(s->thread, NULL);
    while (s->list) {
        struct irqfd *f = s->list;
        s->list = f->next;
        if (f->resample_fd >= 0)
            resampler_put(s, f->gsi);
        free_irqfd(f);
    }
    close(s->stop_fd);
    close(s->epoll_fd);
    pthread_mutex_destroy(&s->ack_lock);
    pthread_mutex_destroy(&s->inject_lock);
    pthread_mutex_destroy(&s->assign_lock);
    free(s);
    vm->irq.irqfds = NULL;
}
