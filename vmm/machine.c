/* SPDX-License-Identifier: MIT */
/*
 * The life of a VM: read the files, make memory and devices, start, restart as often as the guest asks, end with one sentence. The only entry is
 * vmm_run, on the caller's thread; see machine.h for the locks.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/acpi.h"
#include "vmm/machine.h"
#include "vmm/mptable.h"

#define MACHINE_CMDLINE "console=ttyS0 panic=-1"
#define MACHINE_MEM_MIN (2ull << 20)
#define MACHINE_MEM_MAX (1ull << 45)

const char *const vmm_exit_names[VMM_EXIT_COUNT] = { "io", "mmio", "hlt", "intr", "shutdown", "other" };

static void machine_wake(struct machine *m)
{
    uint64_t one = 1;

    (void)!write(m->wake_fd, &one, sizeof(one));
}

/* A kernel that panicked and then asks for a restart has still failed. */
void machine_request_end(struct machine *m, enum machine_end end)
{
    pthread_mutex_lock(&m->end_lock);
    if (m->end == END_NONE)
        m->end = m->panic_ns && (end == END_RESET || end == END_POWER_OFF) ? END_PANIC : end;
    pthread_mutex_unlock(&m->end_lock);
    machine_wake(m);
}

void machine_fail(struct machine *m, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    pthread_mutex_lock(&m->end_lock);
    if (m->end == END_NONE) {
        vsnprintf(m->error.text, sizeof(m->error.text), format, args);
        m->end = END_FAILED;
    }
    pthread_mutex_unlock(&m->end_lock);
    va_end(args);
    machine_wake(m);
}

/* Memory is given to the guest as it touches it, so a little more than there is may be asked for: as much as "all of it" differs from what the host's kernel
 * counts. */
static int machine_check_config(const struct vmm_config *config, struct vmm_error *error)
{
    uint64_t host_bytes = MACHINE_MEM_MAX;
    struct sysinfo host;

    if (config->cpus == 0 || config->cpus > VMM_CPUS_MAX)
        return error_set(error, -EINVAL, "cannot run %u CPUs: 1 to %u are possible", config->cpus, VMM_CPUS_MAX);
    if (config->mem_bytes < MACHINE_MEM_MIN || config->mem_bytes > MACHINE_MEM_MAX)
        return error_set(error, -EINVAL, "cannot give the guest %llu MiB of memory: 2 MiB to 32 TiB are possible",
                         (unsigned long long)(config->mem_bytes >> 20));
    if (sysinfo(&host) == 0)
        host_bytes = ((uint64_t)host.totalram + host.totalswap) * host.mem_unit;
    if (config->mem_bytes > host_bytes + host_bytes / 8)
        return error_set(error, -ENOMEM, "cannot give the guest %llu MiB of memory: this machine has %llu MiB, swap included",
                         (unsigned long long)(config->mem_bytes >> 20), (unsigned long long)(host_bytes >> 20));
    return 0;
}

static int machine_read_files(struct machine *m, struct vmm_error *error)
{
    const struct vmm_config *config = m->config;
    const char *append = config->append ? config->append : "";
    int rc = load_file_read(&m->images.kernel, "kernel", config->kernel, error);

    if (rc == 0 && config->initrd)
        rc = load_file_read(&m->images.initrd, "initrd", config->initrd, error);
    if (rc != 0)
        return rc;
    if (asprintf(&m->cmdline, "%s%s%s", MACHINE_CMDLINE, *append ? " " : "", append) < 0) {
        m->cmdline = NULL;
        return error_set(error, -ENOMEM, "cannot build the kernel command line: %s", strerror(ENOMEM));
    }
    m->images.cmdline = m->cmdline;
    m->images.kernel_name = config->kernel;
    m->images.initrd_name = config->initrd;
    return 0;
}

static int machine_power_on(struct machine *m, struct vmm_error *error)
{
    int rc;

    m->images.rsdp = acpi_build(&m->ram, m->config->cpus);
    rc = load_linux(&m->ram, &m->images, &m->entry, error);
    if (rc == 0)
        rc = kvm_vm_create(m, error);
    if (rc == 0)
        mptable_build(&m->ram, m->config->cpus, m->cpu_signature, m->cpu_features);
    for (unsigned i = 0; i < m->n_cpus && rc == 0; i++) {
        rc = cpu_start(&m->cpu[i]);
        if (rc != 0)
            error_set(error, rc, "cannot start the thread of vCPU %u: %s", i, strerror(-rc));
    }
    return rc;
}

static void machine_read_registers(struct machine *m)
{
    const struct port *port = m->config->port;
    struct kvm_sregs sregs;
    struct kvm_regs regs;

    for (unsigned i = 0; i < m->n_cpus; i++) {
        struct vmm_cpu_stats *s = m->cpu[i].stats;

        if (port->ioctl(m->cpu[i].fd, KVM_GET_REGS, &regs) != 0 || port->ioctl(m->cpu[i].fd, KVM_GET_SREGS, &sregs) != 0)
            continue;
        s->rip = regs.rip;
        s->rsp = regs.rsp;
        s->rflags = regs.rflags;
        s->cr0 = sregs.cr0;
        s->cr3 = sregs.cr3;
    }
}

static void machine_power_down(struct machine *m)
{
    for (unsigned i = 0; i < m->n_cpus; i++)
        cpu_kick(&m->cpu[i]);
    for (unsigned i = 0; i < m->n_cpus; i++)
        cpu_join(&m->cpu[i]);
    machine_read_registers(m);
    if (m->end != END_SIGNAL && m->end != END_QUIT)
        console_drain(&m->console, m->signal_fd);
    devices_reset(m); /* disks finish what they hold before guest memory or the VM may go */
    kvm_vm_destroy(m);
}

static int machine_run(struct machine *m, struct vmm_error *error)
{
    int rc;

    for (;;) {
        m->end = END_NONE;
        rc = machine_power_on(m, error);
        if (rc == 0)
            control_run(m);
        else
            m->end = END_FAILED; /* threads that did start find out */
        machine_power_down(m);
        if (rc != 0 || m->end != END_RESET)
            return rc;
        m->outcome->stats.restarts++;
    }
}

static void machine_describe_end(struct machine *m)
{
    struct vmm_outcome *out = m->outcome;

    switch ((enum machine_end)m->end) {
    case END_PANIC:
        out->status = 1;
        snprintf(out->message, sizeof(out->message), "the guest's kernel panicked: \"%s\"; vCPU 0 was at rip 0x%llx", m->console.watch.panic,
                 (unsigned long long)out->stats.cpu[0].rip);
        break;
    case END_FAILED:
        out->status = 1;
        snprintf(out->message, sizeof(out->message), "%s", m->error.text);
        break;
    case END_SIGNAL:
        out->status = 128 + m->end_signal;
        break;
    default:
        out->status = 0;
        break;
    }
}

static void machine_finish_stats(struct machine *m)
{
    struct vmm_stats *stats = &m->outcome->stats;
    int64_t marker_ns = m->console.watch.marker_ns;

    stats->mem_bytes = m->config->mem_bytes;
    stats->total_seconds = (double)(watch_now_ns() - m->start_ns) / 1e9;
    stats->marker_seconds = marker_ns ? (double)(marker_ns - m->start_ns) / 1e9 : -1;
}

static void machine_destroy(struct machine *m)
{
    devices_destroy(m);
    control_fini(m);
    console_fini(&m->console);
    ram_fini(&m->ram);
    load_file_free(&m->images.kernel);
    load_file_free(&m->images.initrd);
    free(m->cmdline);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->line_lock);
    pthread_mutex_destroy(&m->end_lock);
    free(m);
}

void vmm_run(const struct vmm_config *config, struct vmm_outcome *outcome)
{
    struct machine *m = calloc(1, sizeof(*m));
    struct vmm_error error = { "" };
    int rc;

    memset(outcome, 0, sizeof(*outcome));
    outcome->status = 1;
    outcome->stats.marker_seconds = -1;
    if (!m) {
        snprintf(outcome->message, sizeof(outcome->message), "cannot create the machine: %s", strerror(ENOMEM));
        return;
    }
    m->config = config;
    m->outcome = outcome;
    m->start_ns = watch_now_ns();
    m->dev_fd = m->vm_fd = m->wake_fd = m->signal_fd = -1;
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->line_lock, NULL);
    pthread_mutex_init(&m->end_lock, NULL);
    console_init(&m->console, config->in_fd, config->out_fd, config->marker, &m->end);

    rc = machine_check_config(config, &error);
    if (rc == 0)
        rc = machine_read_files(m, &error);
    if (rc == 0)
        rc = ram_init(&m->ram, config->mem_bytes, config->is_memory_private, &error);
    /* Signals are taken over even when the files were bad, so that control_fini always has something to give back. */
    if (control_init(m, rc == 0 ? &error : &m->error) != 0 && rc == 0)
        rc = -EIO;
    if (rc == 0)
        rc = devices_create(m, &error);
    if (rc == 0)
        rc = machine_run(m, &error);
    if (rc == 0)
        machine_describe_end(m);
    else
        snprintf(outcome->message, sizeof(outcome->message), "%s", error.text);
    machine_finish_stats(m);
    machine_destroy(m);
}
