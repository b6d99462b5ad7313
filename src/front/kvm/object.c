/* SPDX-License-Identifier: MIT */
/*
 * What stands behind fds. A VM lives while its fd's object or that of one of its vCPUs does; a vCPU stays with its VM even when its fd is closed. The fds are
 * memfds, so mmap, dup, poll and close are the kernel's business. The count of what keeps a VM is atomic; creation of vCPUs is under kvm_vm.lock.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memfd.h"
#include "core/coalesced.h"
#include "core/parts.h"
#include "core/time.h"
#include "front/kvm/front_priv.h"

static const struct object_ops object_ops;

static struct kvm_object *object_create(enum kvm_fd_kind kind)
{
    struct kvm_object *o = calloc(1, sizeof(*o));
    if (o) {
        o->kind = kind;
        object_init(&o->base, &object_ops, kind == KVM_FD_DEVICE);
    }
    return o;
}

int kvm_object_open(struct object **out)
{
    struct kvm_object *o = object_create(KVM_FD_DEVICE);
    if (!o)
        return -ENOMEM;
    int fd = memfd_create_sealed("kvm", 0);
    if (fd < 0) {
        free(o);
        return fd;
    }
    *out = &o->base;
    return fd;
}

static uint64_t run_file_bytes(uint32_t ring_bytes)
{
    return ring_bytes ? KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_BYTES + ring_bytes : KVM_RUN_PAGES * PAGE_BYTES;
}

/* The run page of a vCPU, in a memfd of its own, with room for a dirty ring: the fd, or -errno. */
static int run_create(struct kvm_run **out, uint32_t ring_bytes)
{
    hva_t page;
    int fd = memfd_create_growing("kvm-vcpu", run_file_bytes(ring_bytes));
    if (fd < 0)
        return fd;
    int r = memfd_map(fd, 0, KVM_RUN_PAGES * PAGE_BYTES, &page);
    if (r) {
        close(fd);
        return r;
    }
    *out = (struct kvm_run *)page;
    return fd;
}

int kvm_object_grow_first_run(struct kvm_vm *m, uint32_t ring_bytes)
{
    return ftruncate(m->first_run_fd, (off_t)run_file_bytes(ring_bytes)) ? -errno : 0;
}

static void run_destroy(struct kvm_run *run, int fd)
{
    munmap(run, KVM_RUN_PAGES * PAGE_BYTES);
    if (fd >= 0)
        close(fd);
}

static void vm_release(struct kvm_vm *m)
{
    if (atomic_fetch_sub(&m->refs, 1) != 1)
        return;
    int fd = m->vm->fd;
    vm_put(m->vm);
    /* Core's vCPUs are gone: nobody looks at immediate_exit or the ring any more. */
    for (unsigned i = 0; i < VM_VCPU_IDS; i++) {
        if (m->vcpu[i]) {
            run_destroy(m->vcpu[i]->run, -1);
            kvm_stats_fini(&m->vcpu[i]->stats);
            if (m->vcpu[i]->ring)
                munmap(m->vcpu[i]->ring, m->dirty_ring_bytes);
            free(m->vcpu[i]);
        }
    }
    if (m->first_run)
        run_destroy(m->first_run, m->first_run_fd);
    kvm_stats_fini(&m->stats);
    kvm_memory_fini(m);
    if (fd >= 0)
        close(fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* The base is the first member. */
static struct kvm_object *of(const struct object *base)
{
    return (struct kvm_object *)base;
}

static void object_destroy(struct object *base)
{
    struct kvm_object *o = of(base);
    if (o->kind == KVM_FD_VCPU)
        vcpu_destroy(o->vcpu->v);
    if (o->vm)
        vm_release(o->vm);
    free(o);
}

static int object_own_fd(const struct object *base)
{
    const struct kvm_object *o = of(base);
    return o->kind == KVM_FD_VM ? o->vm->vm->fd : o->kind == KVM_FD_STATS ? o->stats->fd : -1;
}

static bool object_is_mappable(const struct object *base)
{
    return of(base)->kind == KVM_FD_VM || of(base)->kind == KVM_FD_VCPU;
}

static const struct object_ops object_ops = { .ioctl = kvm_ioctl, .private_fd = object_own_fd, .is_mappable = object_is_mappable, .destroy = object_destroy };

/* As the kernel's, it keeps the VM. */
int kvm_object_create_stats(struct kvm_vm *m, const struct kvm_stats *s, struct object **out)
{
    struct kvm_object *o = object_create(KVM_FD_STATS);
    if (!o)
        return -ENOMEM;
    atomic_fetch_add(&m->refs, 1);
    o->vm = m;
    o->stats = s;
    *out = &o->base;
    return 0;
}

/*
 * One ring of coalesced writes for a VM, but a page of one file cannot be part of another: it is the first vCPU's, the one that clients look at. As zones may
 * come before any vCPU, that one's pages are made with the VM.
 */
static int first_run_create(struct kvm_vm *m)
{
    m->first_run_fd = run_create(&m->first_run, 0);
    if (m->first_run_fd < 0)
        return m->first_run_fd;
    int r = coalesced_set_ring(m->vm, (void *)((uint8_t *)m->first_run + KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_BYTES));
    if (r)
        run_destroy(m->first_run, m->first_run_fd);
    return r;
}

static int vm_alloc(struct kvm_vm **out)
{
    const struct vm_parts *parts = vm_parts();
    if (!parts->engine)
        return -ENODEV;
    struct kvm_vm *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    int r = vm_create(parts->engine, parts->chip, &m->vm);
    if (r) {
        free(m);
        return r;
    }
    r = first_run_create(m);
    if (r) {
        vm_put(m->vm);
        free(m);
        return r;
    }
    m->refs = 1;
    pthread_mutex_init(&m->lock, NULL);
    *out = m;
    return 0;
}

int kvm_object_create_vm(struct object **out)
{
    struct kvm_object *o = object_create(KVM_FD_VM);
    if (!o)
        return -ENOMEM;
    int r = vm_alloc(&o->vm);
    if (r)
        goto fail_object;
    int fd = r = memfd_create_growing("kvm-vm", 0);
    if (fd < 0)
        goto fail_vm;
    /* The client may close its fd while a vCPU still lives: the file stays reachable for other processes through ours. */
    o->vm->vm->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (o->vm->vm->fd < 0) {
        r = -errno;
        close(fd);
        goto fail_vm;
    }
    *out = &o->base;
    return fd;

fail_vm:
    o->vm->vm->fd = -1;
    vm_release(o->vm);
fail_object:
    free(o);
    return r;
}

static int vcpu_attach(struct kvm_vm *m, uint32_t id, struct kvm_vcpu *c)
{
    struct vcpu *v;
    int r = vcpu_create(m->vm, id, &v);
    if (r)
        return r;
    c->v = v;
    c->owner = m;
    v->client = c;
    v->immediate_exit = &c->run->immediate_exit;
    if (m->default_tsc_khz)
        vcpu_set_tsc_khz(v, m->default_tsc_khz);
    c->run->cr8 = vcpu_cr8_get(v);
    c->run->apic_base = v->cpu.apic_base;
    v->dirty_ring.n = m->dirty_ring_bytes / sizeof(struct dirty_ring_entry);
    v->dirty_ring.entry = (void *)c->ring;
    m->vcpu[id] = c;
    m->n_vcpus++;
    return 0;
}

int kvm_object_create_vcpu(struct kvm_vm *m, uint32_t id, struct object **out)
{
    if (id >= VM_VCPU_IDS || (m->n_ids && id >= m->n_ids) || m->n_vcpus >= VM_VCPUS_MAX)
        return -EINVAL;
    if (m->vcpu[id])
        return -EEXIST;
    struct kvm_object *o = object_create(KVM_FD_VCPU);
    struct kvm_vcpu *c = calloc(1, sizeof(*c));
    int r = -ENOMEM;
    if (!o || !c)
        goto fail;
    int fd = m->first_run_fd;
    if (m->first_run)
        c->run = m->first_run;
    else
        fd = r = run_create(&c->run, m->dirty_ring_bytes);
    if (fd < 0)
        goto fail;
    r = m->dirty_ring_bytes ? memfd_map(fd, KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_BYTES, m->dirty_ring_bytes, &c->ring) : 0;
    if (!r)
        r = vcpu_attach(m, id, c);
    if (r) {
        if (c->run != m->first_run)
            run_destroy(c->run, fd);
        goto fail;
    }
    m->first_run = NULL;
    atomic_fetch_add(&m->refs, 1);
    o->vm = m;
    o->vcpu = c;
    *out = &o->base;
    return fd;

fail:
    if (c && c->ring)
        munmap(c->ring, m->dirty_ring_bytes);
    free(c);
    free(o);
    return r;
}
