/* SPDX-License-Identifier: MIT */
/*
 * KVM_GET_STATS_FD: core's counters as a file that describes itself, to be read by plain read and pread. The counters live in the file, through a mapping of
 * ours, so a read finds them as they are. Each call gives another open of the same file, for reading only. kvm_vm.lock or vcpu.lock is held.
 */
#include "core/stats.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memfd.h"
#include "front/kvm/front_priv.h"

#define NAME_BYTES 48u
#define SECONDS_E9 (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10)

struct stat_row {
    const char *name;
    uint32_t flags;
    int16_t exponent;
};

/* The kernel's names where what is counted is the same. */
static const struct stat_row vcpu_rows[] = {
    [STAT_EXITS] = { .name = "exits" },
    [STAT_IO_EXITS] = { .name = "io_exits" },
    [STAT_MMIO_EXITS] = { .name = "mmio_exits" },
    [STAT_HALT_EXITS] = { .name = "halt_exits" },
    [STAT_HYPERCALLS] = { .name = "hypercalls" },
    [STAT_REQUESTS] = { .name = "req_event" },
    [STAT_SIGNAL_EXITS] = { .name = "signal_exits" },
    [STAT_IRQ_WINDOW_EXITS] = { .name = "irq_window_exits" },
    [STAT_IRQ_INJECTIONS] = { .name = "irq_injections" },
    [STAT_NMI_INJECTIONS] = { .name = "nmi_injections" },
    [STAT_SINGLE_INSNS] = { .name = "insn_emulation" },
    [STAT_INSN_FAILURES] = { .name = "insn_emulation_fail" },
    [STAT_TLB_FLUSHES] = { .name = "tlb_flush" },
    [STAT_INVLPGS] = { .name = "invlpg" },
    [STAT_PAGE_FAULTS] = { .name = "pf_guest" },
    [STAT_HALT_WAKEUPS] = { .name = "halt_wakeup" },
    [STAT_HALT_WAIT_NS] = { .name = "halt_wait_ns", .flags = SECONDS_E9, .exponent = -9 },
    [STAT_IS_BLOCKING] = { .name = "blocking", .flags = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN },
};
_Static_assert(sizeof(vcpu_rows) / sizeof(vcpu_rows[0]) == VCPU_STAT_COUNT, "every counter has a name");

static const struct stat_row vm_rows[] = { [STAT_MEMORY_CHANGES] = { .name = "remote_tlb_flush" } };
_Static_assert(sizeof(vm_rows) / sizeof(vm_rows[0]) == VM_STAT_COUNT, "every counter has a name");

#define DESC_BYTES (sizeof(struct kvm_stats_desc) + NAME_BYTES)

static uint64_t file_bytes(unsigned n)
{
    return sizeof(struct kvm_stats_header) + NAME_BYTES + n * (DESC_BYTES + sizeof(uint64_t));
}

/* Returns where the counters go. */
static uint64_t *file_describe(hva_t file, const char *id, const struct stat_row *rows, unsigned n)
{
    struct kvm_stats_header h = { .name_size = NAME_BYTES, .num_desc = n, .id_offset = sizeof(h) };
    h.desc_offset = h.id_offset + NAME_BYTES;
    h.data_offset = h.desc_offset + n * (uint32_t)DESC_BYTES;
    assert(h.data_offset % sizeof(uint64_t) == 0);
    memcpy(file, &h, sizeof(h));
    strncpy((char *)file + h.id_offset, id, NAME_BYTES - 1);
    for (unsigned i = 0; i < n; i++) {
        uint8_t *at = file + h.desc_offset + i * DESC_BYTES;
        struct kvm_stats_desc d = { .flags = rows[i].flags, .exponent = rows[i].exponent, .size = 1, .offset = i * (uint32_t)sizeof(uint64_t) };
        memcpy(at, &d, sizeof(d));
        strncpy((char *)at + sizeof(d), rows[i].name, NAME_BYTES - 1);
    }
    return (uint64_t *)(void *)(file + h.data_offset);
}

/* 0 with s->map and s->fd set; the counters are still elsewhere. */
static int file_create(struct kvm_stats *s, const char *id, const struct stat_row *rows, unsigned n, uint64_t **counters)
{
    int fd = memfd_create_sealed("kvm-stats", file_bytes(n));
    if (fd < 0)
        return fd;
    hva_t map;
    int r = memfd_map(fd, 0, file_bytes(n), &map);
    if (r) {
        close(fd);
        return r;
    }
    *counters = file_describe(map, id, rows, n);
    *s = (struct kvm_stats){ .fd = fd, .map = map, .bytes = file_bytes(n) };
    return 0;
}

void kvm_stats_fini(struct kvm_stats *s)
{
    if (!s->map)
        return;
    munmap(s->map, s->bytes);
    close(s->fd);
}

static int file_open(const struct kvm_stats *s)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* An fd. If the file had to be made, *counters is where they go from now on. */
static int publish(struct kvm_stats *s, struct kvm_vm *m, struct kvm_arg *a, const char *id, const struct stat_row *rows, unsigned n, uint64_t **counters)
{
    struct kvm_stats file = *s;
    int r = file.map ? 0 : file_create(&file, id, rows, n, counters);
    if (r)
        return r;
    int fd = r = file_open(&file);
    if (fd >= 0)
        r = kvm_object_create_stats(m, s, &a->created);
    if (r >= 0) {
        *s = file;
        return fd;
    }
    if (fd >= 0)
        close(fd);
    if (!s->map)
        kvm_stats_fini(&file);
    *counters = NULL;
    return r;
}

int kvm_stats_get_vm(struct kvm_vm *m, struct kvm_arg *a)
{
    uint64_t *counters = NULL;
    char id[NAME_BYTES];
    snprintf(id, sizeof(id), "kvm-%d", getpid());
    pthread_mutex_lock(&m->lock);
    int r = publish(&m->stats, m, a, id, vm_rows, VM_STAT_COUNT, &counters);
    if (counters)
        vm_stats_move(m->vm, counters);
    pthread_mutex_unlock(&m->lock);
    return r;
}

int kvm_stats_get_vcpu(struct kvm_vcpu *c, struct kvm_arg *a)
{
    uint64_t *counters = NULL;
    char id[NAME_BYTES];
    snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", getpid(), c->v->id);
    int r = publish(&c->stats, c->owner, a, id, vcpu_rows, VCPU_STAT_COUNT, &counters);
    if (counters)
        vcpu_stats_move(c->v, counters);
    return r;
}
