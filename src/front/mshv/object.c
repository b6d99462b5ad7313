/* SPDX-License-Identifier: MIT */
/*
 * What stands behind fds. A partition lives while its fd's object or that of one of its VPs does; a VP stays with its partition even when its fd is closed. The
 * fds are memfds; a VP's first page is its register page. Creation of VPs is under mshv_partition.lock.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memfd.h"
#include "core/ioeventfd.h"
#include "core/irqfd.h"
#include "core/parts.h"
#include "front/mshv/mshv_priv.h"

static const struct object_ops object_ops;

static struct mshv_object *object_create(enum mshv_fd_kind kind)
{
    struct mshv_object *o = calloc(1, sizeof(*o));
    if (o) {
        o->kind = kind;
        object_init(&o->base, &object_ops, kind == MSHV_FD_DEVICE);
    }
    return o;
}

int mshv_object_open(struct object **out)
{
    struct mshv_object *o = object_create(MSHV_FD_DEVICE);
    if (!o)
        return -ENOMEM;
    int fd = memfd_create_sealed("mshv", 0);
    if (fd < 0)
        free(o);
    else
        *out = &o->base;
    return fd;
}

static void partition_release(struct mshv_partition *p)
{
    if (atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    int fd = p->vm->fd;
    vm_put(p->vm);
    for (unsigned i = 0; i < MSHV_VPS_MAX; i++) {
        if (p->vp[i]) {
            munmap(p->vp[i]->page, PAGE_BYTES);
            free(p->vp[i]);
        }
    }
    if (fd >= 0)
        close(fd);
    pthread_mutex_destroy(&p->lock);
    free(p->override);
    free(p->region);
    free(p);
}

static void object_destroy(struct object *base)
{
    struct mshv_object *o = (struct mshv_object *)base;
    if (o->kind == MSHV_FD_VP)
        vcpu_destroy(o->vp->v);
    if (o->kind == MSHV_FD_PARTITION) { /* VPs may go on; nobody can take these back any more */
        irqfd_fini(o->partition->vm);
        ioeventfd_fini(o->partition->vm);
    }
    if (o->partition)
        partition_release(o->partition);
    free(o);
}

static int object_own_fd(const struct object *base)
{
    const struct mshv_object *o = (const struct mshv_object *)base;
    return o->kind == MSHV_FD_PARTITION ? o->partition->vm->fd : -1;
}

static bool object_is_mappable(const struct object *base)
{
    return ((const struct mshv_object *)base)->kind == MSHV_FD_VP;
}

static const struct object_ops object_ops = { .ioctl = mshv_ioctl, .private_fd = object_own_fd, .is_mappable = object_is_mappable, .destroy = object_destroy };

/* LAPICs are ours, all other chips and the execution of what touches them the client's. */
static void vm_set_up(struct vm *vm, uint64_t flags)
{
    vm->reports_accesses = true;
    vm->has_split_irqchip = flags & MSHV_PT_LAPIC;
    vm->reports_level_eois = true;
    vm->x2apic_api_flags = 1; /* MSIs carry all of an id */
}

static int partition_alloc(const struct mshv_create_partition_v2 *how, struct mshv_partition **out)
{
    const struct vm_parts *parts = vm_parts();
    if (!parts->engine)
        return -ENODEV;
    struct mshv_partition *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    int r = vm_create(parts->engine, parts->chip, &p->vm);
    if (r) {
        free(p);
        return r;
    }
    p->refs = 1;
    p->flags = how->base.flags;
    p->disabled[0] = how->disabled[0];
    p->disabled[1] = how->disabled[1];
    p->disabled_xsave = how->disabled_xsave;
    pthread_mutex_init(&p->lock, NULL);
    vm_set_up(p->vm, p->flags);
    *out = p;
    return 0;
}

int mshv_object_create_partition(const struct mshv_create_partition_v2 *how, struct object **out)
{
    struct mshv_object *o = object_create(MSHV_FD_PARTITION);
    if (!o)
        return -ENOMEM;
    int r = partition_alloc(how, &o->partition);
    if (r)
        goto fail_object;
    int fd = r = memfd_create_growing("mshv-partition", 0);
    if (fd < 0)
        goto fail_partition;
    /* The client may close its fd while a VP still lives: the file stays reachable for other processes through ours. */
    o->partition->vm->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (o->partition->vm->fd < 0) {
        r = -errno;
        close(fd);
        goto fail_partition;
    }
    *out = &o->base;
    return fd;

fail_partition:
    partition_release(o->partition);
fail_object:
    free(o);
    return r;
}

/* The reset state, with the CPUID of the partition; all but the first wait for a start-up IPI, for which nobody sends an INIT first. */
static int vp_attach(struct mshv_partition *p, uint32_t index, struct mshv_vp *vp)
{
    int r = vcpu_create(p->vm, index, &vp->v);
    if (r)
        return r;
    vp->owner = p;
    vp->is_explicitly_suspended = true;
    vp->v->client = vp;
    vp->v->is_pv_enforced = vp->v->is_hv_enforced = true;
    if (atomic_load(&vp->v->mp_state) == MP_UNINITIALIZED)
        atomic_store(&vp->v->mp_state, MP_INIT_RECEIVED);
    mshv_features_install(vp);
    mshv_cpuid_catch_up(vp);
    vp->v->vm->engine->state_changed(vp->v);
    __atomic_store_n(&p->vp[index], vp, __ATOMIC_RELEASE);
    p->n_vps++;
    return 0;
}

int mshv_object_create_vp(struct mshv_partition *p, uint32_t index, struct object **out)
{
    if (p->n_vps >= VM_VCPUS_MAX)
        return -ENOMEM;
    struct mshv_object *o = object_create(MSHV_FD_VP);
    struct mshv_vp *vp = calloc(1, sizeof(*vp));
    hva_t page = NULL;
    int fd = -1, r = o && vp ? 0 : -ENOMEM;
    if (!r)
        r = fd = memfd_create_sealed("mshv-vp", PAGE_BYTES);
    if (r >= 0)
        r = memfd_map(fd, 0, PAGE_BYTES, &page);
    if (!r) {
        vp->page = (struct mshv_register_page *)page;
        r = vp_attach(p, index, vp);
    }
    if (r) {
        if (page)
            munmap(page, PAGE_BYTES);
        if (fd >= 0)
            close(fd);
        free(vp);
        free(o);
        return r;
    }
    atomic_fetch_add(&p->refs, 1);
    o->partition = p;
    o->vp = vp;
    *out = &o->base;
    return fd;
}
