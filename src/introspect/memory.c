/* SPDX-License-Identifier: MIT */
/* See memory.h. Pages are copied one by one, so that a copy that meets the end of memory, or memory that its owner took away, keeps what it has. */
#include "introspect/memory.h"

#include <errno.h>
#include <string.h>

#include "core/vcpu.h"
#include "core/vm.h"

static size_t piece_bytes(gpa_t gpa, size_t left)
{
    size_t in_page = PAGE_BYTES - (gpa & PAGE_OFFSET_MASK);
    return left < in_page ? left : in_page;
}

ssize_t look_memory_read(struct vm *vm, gpa_t gpa, void *to, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        size_t n = piece_bytes(gpa + done, bytes - done);
        if (vm_read(vm, gpa + done, (uint8_t *)to + done, n))
            break;
        done += n;
    }
    return done || !bytes ? (ssize_t)done : -EFAULT;
}

/* Code may have changed: vCPUs look at it again. */
static void written_to(struct vm *vm)
{
    atomic_fetch_add(&vm->client_epoch, 1);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v)
            vcpu_request(v, VREQ_EVENT);
    }
}

ssize_t look_memory_write(struct vm *vm, gpa_t gpa, const void *from, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        size_t n = piece_bytes(gpa + done, bytes - done);
        if (vm_write(vm, gpa + done, (const uint8_t *)from + done, n))
            break;
        done += n;
    }
    if (done)
        written_to(vm);
    return done || !bytes ? (ssize_t)done : -EFAULT;
}

unsigned look_memory_slots(struct vm *vm, struct memslot *out, unsigned n)
{
    unsigned count = 0;
    pthread_mutex_lock(&vm->slots_lock); /* writers free the table only after they let go of this */
    for (unsigned space = 0; space < SPACE_COUNT; space++) {
        const struct memslots *t = atomic_load(&vm->slots[space]);
        for (unsigned i = 0; i < t->n; i++) {
            if (memslot_is_hidden(&t->slot[i]) || count++ >= n)
                continue;
            out[count - 1] = t->slot[i];
            out[count - 1].dirty = NULL;
        }
    }
    pthread_mutex_unlock(&vm->slots_lock);
    return count;
}

gpa_t look_memory_end(struct vm *vm)
{
    pthread_mutex_lock(&vm->slots_lock);
    const struct memslots *t = atomic_load(&vm->slots[SPACE_NORMAL]);
    unsigned n = t->n;
    while (n && memslot_is_hidden(&t->slot[n - 1]))
        n--;
    gpa_t end = n ? t->slot[n - 1].gpa + t->slot[n - 1].bytes : 0;
    pthread_mutex_unlock(&vm->slots_lock);
    return end;
}

bool look_memory_slot(struct vm *vm, gpa_t gpa, struct memslot *out)
{
    pthread_mutex_lock(&vm->slots_lock);
    const struct memslot *s = memslots_find(atomic_load(&vm->slots[SPACE_NORMAL]), gpa);
    if (s) {
        *out = *s;
        out->dirty = NULL;
    }
    pthread_mutex_unlock(&vm->slots_lock);
    return s;
}
