/* SPDX-License-Identifier: MIT */
/*
 * A vCPU: its state at the kernel's entry point, its thread, its exits. Accesses to devices are made under the machine's device lock. To stop, the
 * thread is told twice: immediate_exit for the moment before KVM_RUN, a signal for the time inside.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "vmm/cpuid.h"
#include "vmm/machine.h"

enum { CR0_BITS = 0x80050033 /* PG AM WP NE ET MP PE */, CR4_PAE = 1 << 5, EFER_LME = 1 << 8, EFER_LMA = 1 << 10 };
enum { LAPIC_LVT0 = 0x350, LAPIC_LVT1 = 0x360, LVT_EXTINT = 0x700, LVT_NMI = 0x400 };
enum { MSR_MISC_ENABLE = 0x1a0, MSR_MTRR_DEF_TYPE = 0x2ff };

static int cpu_ioctl(struct cpu *cpu, unsigned long request, void *arg)
{
    return cpu->machine->config->port->ioctl(cpu->fd, request, arg);
}

static int cpu_set_cpuid(struct cpu *cpu)
{
    struct machine *m = cpu->machine;
    struct cpuid_table table;

    memset(&table, 0, sizeof(table));
    table.head.nent = CPUID_ENTRIES_MAX;
    if (m->config->port->ioctl(m->dev_fd, KVM_GET_SUPPORTED_CPUID, &table) != 0)
        return -errno;
    cpuid_fix(&table, cpu->id, m->config->cpus, m->has_tsc_deadline);
    for (uint32_t i = 0; i < table.head.nent; i++) {
        if (cpu->id != 0 || table.entry[i].function != 1)
            continue;
        m->cpu_signature = table.entry[i].eax;
        m->cpu_features = table.entry[i].edx;
    }
    return cpu_ioctl(cpu, KVM_SET_CPUID2, &table) == 0 ? 0 : -errno;
}

/* What firmware would have left: virtual wire mode for the PIC, NMI on LINT1, write-back memory, fast strings. */
static int cpu_set_firmware_state(struct cpu *cpu)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = { .head = { .nmsrs = 1 } };
    struct kvm_lapic_state lapic;
    uint32_t lvt0 = LVT_EXTINT, lvt1 = LVT_NMI;

    if (cpu_ioctl(cpu, KVM_GET_LAPIC, &lapic) != 0)
        return -errno;
    memcpy(lapic.regs + LAPIC_LVT0, &lvt0, 4);
    memcpy(lapic.regs + LAPIC_LVT1, &lvt1, 4);
    if (cpu_ioctl(cpu, KVM_SET_LAPIC, &lapic) != 0)
        return -errno;
    /* Absent on some CPUs, and then not needed. */
    msr.entry = (struct kvm_msr_entry){ .index = MSR_MTRR_DEF_TYPE, .data = 0x806 };
    cpu_ioctl(cpu, KVM_SET_MSRS, &msr);
    msr.entry = (struct kvm_msr_entry){ .index = MSR_MISC_ENABLE, .data = 1 };
    cpu_ioctl(cpu, KVM_SET_MSRS, &msr);
    return 0;
}

static int cpu_set_entry_state(struct cpu *cpu, const struct load_entry *entry)
{
    struct kvm_segment code = { .limit = 0xffffffff, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
    struct kvm_segment data = { .limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    struct kvm_segment task = { .limit = 0x67, .selector = 0x20, .type = 11, .present = 1 };
    struct kvm_regs regs = { .rip = entry->rip, .rsi = entry->rsi, .rflags = 2 };
    struct kvm_sregs sregs;

    if (cpu_ioctl(cpu, KVM_GET_SREGS, &sregs) != 0)
        return -errno;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.tr = task;
    sregs.gdt.base = entry->gdt;
    sregs.gdt.limit = entry->gdt_limit;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_BITS;
    sregs.cr3 = entry->cr3;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    if (cpu_ioctl(cpu, KVM_SET_SREGS, &sregs) != 0 || cpu_ioctl(cpu, KVM_SET_REGS, &regs) != 0)
        return -errno;
    return 0;
}

int cpu_create(struct machine *m, unsigned id, struct vmm_error *error)
{
    struct cpu *cpu = &m->cpu[id];
    int rc;

    *cpu = (struct cpu){ .machine = m, .id = id, .stats = &m->outcome->stats.cpu[id] };
    cpu->fd = m->config->port->ioctl(m->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)id);
    if (cpu->fd < 0)
        return error_set(error, -errno, "cannot create vCPU %u: %s", id, strerror(errno));
    cpu->run = m->config->port->mmap(m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (cpu->run == MAP_FAILED) {
        rc = -errno;
        m->config->port->close(cpu->fd);
        return error_set(error, rc, "cannot map vCPU %u: %s", id, strerror(-rc));
    }
    m->n_cpus = id + 1;
    m->outcome->stats.vcpus = m->n_cpus;
    rc = cpu_set_cpuid(cpu);
    if (rc == 0)
        rc = cpu_set_firmware_state(cpu);
    if (rc == 0 && id == 0) /* the others wait for the first one's SIPI */
        rc = cpu_set_entry_state(cpu, &m->entry);
    if (rc != 0)
        return error_set(error, rc, "cannot set the state of vCPU %u: %s", id, strerror(-rc));
    return 0;
}

void cpu_destroy(struct cpu *cpu)
{
    munmap(cpu->run, cpu->machine->run_bytes);
    cpu->machine->config->port->close(cpu->fd);
}

static void cpu_handle_io(struct cpu *cpu)
{
    struct machine *m = cpu->machine;
    struct kvm_run *run = cpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
        iobus_access(&m->pio, run->io.port, run->io.size, run->io.direction == KVM_EXIT_IO_OUT, data);
    pthread_mutex_unlock(&m->lock);
}

static void cpu_handle_mmio(struct cpu *cpu)
{
    struct machine *m = cpu->machine;
    struct kvm_run *run = cpu->run;

    pthread_mutex_lock(&m->lock);
    iobus_access(&m->mmio, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write, run->mmio.data);
    pthread_mutex_unlock(&m->lock);
}

static void cpu_fail(struct cpu *cpu, const char *why)
{
    struct kvm_sregs sregs = { 0 };
    struct kvm_regs regs = { 0 };

    cpu_ioctl(cpu, KVM_GET_REGS, &regs);
    cpu_ioctl(cpu, KVM_GET_SREGS, &sregs);
    machine_fail(cpu->machine, "%s on vCPU %u at rip 0x%llx (cs 0x%x, rsp 0x%llx, rflags 0x%llx, cr0 0x%llx, cr2 0x%llx, cr3 0x%llx, cr4 0x%llx, efer 0x%llx)",
                 why, cpu->id, regs.rip, sregs.cs.selector, regs.rsp, regs.rflags, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer);
}

static void cpu_fail_internal(struct cpu *cpu)
{
    const struct kvm_run *run = cpu->run;
    char why[128], *p = why, *end = why + sizeof(why);
    unsigned n = 0;

    p += snprintf(p, (size_t)(end - p), "the engine cannot go on (internal error %u)", run->internal.suberror);
    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 3 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        n = run->emulation_failure.insn_size <= 15 ? run->emulation_failure.insn_size : 15;
    if (n)
        p += snprintf(p, (size_t)(end - p), ", instruction bytes");
    for (unsigned i = 0; i < n; i++)
        p += snprintf(p, (size_t)(end - p), " %02x", run->emulation_failure.insn_bytes[i]);
    cpu_fail(cpu, why);
}

static void cpu_handle_exit(struct cpu *cpu)
{
    uint64_t *count = cpu->stats->exits;
    char why[64];

    switch (cpu->run->exit_reason) {
    case KVM_EXIT_IO:
        count[VMM_EXIT_IO]++;
        cpu_handle_io(cpu);
        break;
    case KVM_EXIT_MMIO:
        count[VMM_EXIT_MMIO]++;
        cpu_handle_mmio(cpu);
        break;
    case KVM_EXIT_INTR:
        count[VMM_EXIT_INTR]++;
        break;
    case KVM_EXIT_HLT: /* only without interrupt controllers in the engine, which we asked for */
        count[VMM_EXIT_HLT]++;
        cpu_fail(cpu, "unexpected halt");
        break;
    case KVM_EXIT_SHUTDOWN:
        count[VMM_EXIT_SHUTDOWN]++;
        cpu_fail(cpu, "the guest crashed (triple fault)");
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        count[VMM_EXIT_OTHER]++;
        cpu_fail_internal(cpu);
        break;
    default:
        count[VMM_EXIT_OTHER]++;
        snprintf(why, sizeof(why), "exit %u that nobody handles", cpu->run->exit_reason);
        cpu_fail(cpu, why);
        break;
    }
}

static void *cpu_thread(void *arg)
{
    struct cpu *cpu = arg;
    struct machine *m = cpu->machine;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    while (m->end == END_NONE) {
        if (cpu_ioctl(cpu, KVM_RUN, NULL) == 0) {
            cpu_handle_exit(cpu);
            continue;
        }
        if (errno != EINTR && errno != EAGAIN) {
            machine_fail(m, "KVM_RUN of vCPU %u failed: %s", cpu->id, strerror(errno));
            break;
        }
        cpu->stats->exits[VMM_EXIT_INTR]++;
    }
    return NULL;
}

int cpu_start(struct cpu *cpu)
{
    int rc = -pthread_create(&cpu->thread, NULL, cpu_thread, cpu);

    cpu->has_thread = rc == 0;
    return rc;
}

void cpu_kick(struct cpu *cpu)
{
    if (!cpu->has_thread)
        return;
    __atomic_store_n(&cpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(cpu->thread, SIGUSR1);
}

/* Kicks until it works: a signal that comes between the check of machine.end and a blocking write is lost. */
void cpu_join(struct cpu *cpu)
{
    struct timespec until;

    while (cpu->has_thread) {
        cpu_kick(cpu);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 20000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        if (pthread_timedjoin_np(cpu->thread, NULL, &until) == 0)
            cpu->has_thread = false;
    }
}
