/* SPDX-License-Identifier: MIT */
/*
 * See machine.h. One thread. Every call goes through the in-process transport, as a client's would.
 */
#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/conform/client2007.h"
#include "tests/fault/machine.h"
#include "transport/inproc.h"

static int call(int fd, unsigned long request, const void *arg)
{
    return vitrine_ioctl(fd, request, (void *)(uintptr_t)arg) < 0 ? -errno : 0;
}

static int call_fd(int *out, int fd, unsigned long request, uint64_t value)
{
    int r = vitrine_ioctl(fd, request, (void *)(uintptr_t)value);
    if (r < 0)
        return -errno;
    *out = r;
    return 0;
}

bool machine_init(struct machine *m)
{
    *m = (struct machine){ .dev_fd = -1, .vm_fd = -1, .cpu_fd = { -1, -1 } };
    m->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->resample_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->io_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->ram = mmap(NULL, MACHINE_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return m->irq_fd >= 0 && m->resample_fd >= 0 && m->io_fd >= 0 && m->ram != MAP_FAILED;
}

void machine_fini(struct machine *m)
{
    for (unsigned i = 0; i < MACHINE_CPUS; i++) {
        if (m->run[i])
            munmap(m->run[i], MACHINE_RUN_BYTES);
        if (m->cpu_fd[i] >= 0)
            vitrine_close(m->cpu_fd[i]);
    }
    if (m->vm_fd >= 0)
        vitrine_close(m->vm_fd);
    if (m->dev_fd >= 0)
        vitrine_close(m->dev_fd);
    close(m->irq_fd);
    close(m->resample_fd);
    close(m->io_fd);
    munmap(m->ram, MACHINE_RAM_BYTES);
}

int machine_open(struct machine *m)
{
    int fd = vitrine_open("/dev/kvm");
    if (fd < 0)
        return -errno;
    m->dev_fd = fd;
    return 0;
}

int machine_create_vm(struct machine *m)
{
    return call_fd(&m->vm_fd, m->dev_fd, KVM_CREATE_VM, 0);
}

int machine_create_irqchip(struct machine *m)
{
    return call(m->vm_fd, KVM_CREATE_IRQCHIP, NULL);
}

int machine_create_pit(struct machine *m)
{
    struct kvm_pit_config config = { .flags = 0 };
    return call(m->vm_fd, KVM_CREATE_PIT2, &config);
}

static int set_ram(struct machine *m, uint32_t flags)
{
    struct kvm_userspace_memory_region region = { .memory_size = MACHINE_RAM_BYTES, .flags = flags, .userspace_addr = (uintptr_t)m->ram };
    return call(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int machine_add_ram(struct machine *m)
{
    return set_ram(m, 0);
}

int machine_log_dirty(struct machine *m)
{
    return set_ram(m, KVM_MEM_LOG_DIRTY_PAGES);
}

int machine_get_dirty(struct machine *m)
{
    uint8_t bitmap[MACHINE_RAM_BYTES / 4096 / 8];
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bitmap };
    return call(m->vm_fd, KVM_GET_DIRTY_LOG, &log);
}

int machine_set_msr_filter(struct machine *m)
{
    uint8_t allowed[8] = { 0 };
    struct kvm_msr_filter f = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .nmsrs = 64, .base = 0x1000, .bitmap = allowed },
                                            { .flags = KVM_MSR_FILTER_WRITE, .nmsrs = 64, .base = 0x2000, .bitmap = allowed } } };
    return call(m->vm_fd, KVM_X86_SET_MSR_FILTER, &f);
}

static int stats_look(int of)
{
    struct kvm_stats_header h;
    int fd = -1, r = call_fd(&fd, of, KVM_GET_STATS_FD, 0);
    if (r)
        return r;
    r = pread(fd, &h, sizeof h, 0) == sizeof h && h.num_desc ? 0 : -EIO;
    vitrine_close(fd);
    return r;
}

int machine_get_vm_stats(struct machine *m)
{
    return stats_look(m->vm_fd);
}

int machine_get_cpu_stats(struct machine *m)
{
    return stats_look(m->cpu_fd[0]);
}

int machine_add_ram_2007(struct machine *m)
{
    struct memory_region region = { .slot = 1, .guest_phys_addr = 0x400000, .memory_size = 0x10000 };
    return call(m->vm_fd, SET_MEMORY_REGION, &region);
}

int machine_move_ram_2007(struct machine *m)
{
    struct memory_region region = { .slot = 1, .guest_phys_addr = 0x408000, .memory_size = 0x10000 };
    return call(m->vm_fd, SET_MEMORY_REGION, &region);
}

static int create_cpu(struct machine *m, unsigned i)
{
    if (m->cpu_fd[i] < 0) {
        int r = call_fd(&m->cpu_fd[i], m->vm_fd, KVM_CREATE_VCPU, i);
        if (r)
            return r;
    }
    void *p = vitrine_mmap(MACHINE_RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->cpu_fd[i], 0);
    if (p == MAP_FAILED)
        return -errno;
    m->run[i] = p;
    return 0;
}

int machine_create_cpu0(struct machine *m)
{
    return create_cpu(m, 0);
}

int machine_create_cpu1(struct machine *m)
{
    return create_cpu(m, 1);
}

int machine_set_cpuid(struct machine *m)
{
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[128];
    } table = { .head = { .nent = 128 } };
    int r = call(m->dev_fd, KVM_GET_SUPPORTED_CPUID, &table);
    return r ? r : call(m->cpu_fd[0], KVM_SET_CPUID2, &table);
}

int machine_set_routing(struct machine *m)
{
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entry[24];
    } table = { .head = { .nr = 24 } };
    for (unsigned i = 0; i < 24; i++)
        table.entry[i] = (struct kvm_irq_routing_entry){ .gsi = i, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = i } };
    return call(m->vm_fd, KVM_SET_GSI_ROUTING, &table);
}

int machine_add_irqfd(struct machine *m)
{
    struct kvm_irqfd irqfd = { .fd = (uint32_t)m->irq_fd, .gsi = 10 };
    return call(m->vm_fd, KVM_IRQFD, &irqfd);
}

int machine_add_resampler(struct machine *m)
{
    struct kvm_irqfd irqfd = { .fd = (uint32_t)m->io_fd, .gsi = 11, .flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = (uint32_t)m->resample_fd };
    return call(m->vm_fd, KVM_IRQFD, &irqfd);
}

int machine_add_ioeventfd(struct machine *m)
{
    struct kvm_ioeventfd ioeventfd = { .addr = 0x80, .len = 1, .fd = m->resample_fd, .flags = KVM_IOEVENTFD_FLAG_PIO };
    return call(m->vm_fd, KVM_IOEVENTFD, &ioeventfd);
}

int machine_add_coalesced(struct machine *m)
{
    struct kvm_coalesced_mmio_zone zone = { .addr = 0xa0000000, .size = 0x1000 };
    return call(m->vm_fd, KVM_REGISTER_COALESCED_MMIO, &zone);
}

int machine_set_clock_msr(struct machine *m)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msrs = { .head = { .nmsrs = 1 }, .entry = { .index = 0x4b564d01, .data = 0x3001 } };
    int r = vitrine_ioctl(m->cpu_fd[0], KVM_SET_MSRS, &msrs);
    return r == 1 ? 0 : r < 0 ? -errno : -ENOMEM; /* the call counts the MSRs it could set */
}

static void ram_write(struct machine *m, uint32_t gpa, const void *bytes, size_t n)
{
    memcpy(m->ram + gpa, bytes, n);
}

int machine_run_to_out(struct machine *m)
{
    static const uint8_t code[] = {
        0xb9, 0x20, 0x00, /*      mov cx, 32 */
        0x01, 0xc8,       /* 1:   add ax, cx */
        0xa3, 0x00, 0x20, /*      mov [0x2000], ax */
        0xe6, 0x80,       /*      out 0x80, al   ; the ioeventfd, if there is one */
        0xe2, 0xf7,       /*      loop 1b */
        0xe6, 0x10,       /*      out 0x10, al */
        0xf4,             /*      hlt */
    };
    struct kvm_regs regs = { .rip = 0x1000, .rflags = 2, .rsp = 0x8000 };
    struct kvm_sregs sregs;
    ram_write(m, 0x1000, code, sizeof code);
    int r = call(m->cpu_fd[0], KVM_GET_SREGS, &sregs);
    if (r)
        return r;
    sregs.cs.base = sregs.cs.selector = 0;
    r = call(m->cpu_fd[0], KVM_SET_SREGS, &sregs);
    if (!r)
        r = call(m->cpu_fd[0], KVM_SET_REGS, &regs);
    while (!r) {
        r = call(m->cpu_fd[0], KVM_RUN, NULL);
        if (r)
            return r;
        if (m->run[0]->exit_reason != KVM_EXIT_IO)
            return -EPROTO;
        if (m->run[0]->io.port == 0x10)
            break;
    }
    return r ? r : *(uint8_t *)(m->ram + 0x2000) == (uint8_t)528 ? 0 : -EPROTO;
}

static unsigned count_entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;
    if (!dir)
        return 0;
    for (struct dirent *d; (d = readdir(dir));)
        n += d->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* A thread that was joined may still be listed for a moment. */
static unsigned count_threads(void)
{
    unsigned n = count_entries("/proc/self/task");
    for (unsigned i = 0; i < 50 && n > 1; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        unsigned now = count_entries("/proc/self/task");
        if (now == n && i >= 5)
            break;
        n = now;
    }
    return n;
}

/* The sockets by which tools find VMs belong to a network namespace: in one of its own, nobody's connection is counted. */
static void leave_tools_behind(void)
{
    if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
        printf("# no network namespace of its own: a tool that looks into all VMs would be counted\n");
}

void usage_init(char **argv)
{
    if (getenv("GLIBC_TUNABLES")) {
        leave_tools_behind();
        return;
    }
    setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
    execv("/proc/self/exe", argv); /* if it cannot, the figures are less exact */
}

void usage_take(struct usage *u)
{
    struct mallinfo2 heap = mallinfo2();
    u->fds = count_entries("/proc/self/fd");
    u->threads = count_threads();
    u->heap_bytes = heap.uordblks + heap.hblkhd;
    u->mapped_bytes = 0;
#ifdef __SANITIZE_ADDRESS__ /* maps shadows and quarantines at will, and finds leaks itself */
    return;
#endif
    FILE *f = fopen("/proc/self/maps", "re");
    for (char line[512]; f && fgets(line, sizeof line, f);) {
        unsigned long from, to;
        if (!strstr(line, "[heap]") && !strstr(line, "[stack]") && sscanf(line, "%lx-%lx", &from, &to) == 2)
            u->mapped_bytes += to - from;
    }
    if (f)
        fclose(f);
}
