/* SPDX-License-Identifier: MIT */
/*
 * Runs bare-metal guests that test the architecture from inside (guests/arch): loads each flat image as a multiboot loader would, runs it on the soft engine
 * with the PC's interrupt controllers, and passes on the TAP lines that it writes. usage: arch [-s] [-n VCPUS] IMAGE...   -s: one instruction at a time.
 *
 * Ports of the guests: 0xe9 text, where the line "expect shutdown" means what it says; 0xf4 the end; 0xf5 asks the host to write to guest memory (see struct
 * host_write), reads 0x56 where that exists;
 * 0xf6 reads the number of CPUs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chip/pc.h"
#include "core/cpuid.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "engine/soft/soft.h"

#define RAM_BYTES (32u << 20)
#define IMAGE_AT 0x100000u
#define ENTRY_AT (IMAGE_AT + 32) /* behind the multiboot header */
#define PORT_TEXT 0xe9
#define PORT_END 0xf4
#define PORT_HOST_WRITE 0xf5
#define PORT_CPUS 0xf6
#define TIMEOUT_SECONDS 280
#define SMM_SLOT ((uint32_t)SPACE_SMM << MEMSLOT_SPACE_SHIFT)

/* What the guest leaves at the address it sends to PORT_HOST_WRITE. */
struct host_write {
    uint32_t to, bytes;
    uint8_t data[];
};

struct machine {
    struct vm *vm;
    uint8_t *ram;
    const char *name;
    _Atomic bool is_over;
    bool is_failed, expects_shutdown;
    char line[512];
    unsigned n_line;
};

struct cpu_thread {
    struct machine *m;
    struct vcpu *v;
    pthread_t thread;
};

static const char *running = "";

static void over(struct machine *m)
{
    atomic_store(&m->is_over, true);
    for (unsigned i = 0; i < atomic_load(&m->vm->n_vcpus); i++)
        vcpu_request(m->vm->vcpu[i], VREQ_EXIT);
}

static void text(struct machine *m, char c)
{
    if (c != '\n' && m->n_line < sizeof m->line - 1) {
        m->line[m->n_line++] = c;
        return;
    }
    m->line[m->n_line] = 0;
    m->n_line = 0;
    m->is_failed |= strncmp(m->line, "not ok", 6) == 0;
    if (!strcmp(m->line, "expect shutdown"))
        m->expects_shutdown = true;
    else
        printf("%s\n", m->line);
    fflush(stdout);
}

static void host_write(struct machine *m, uint32_t at)
{
    const struct host_write *w = (const void *)(m->ram + at % (RAM_BYTES - 4096));
    uint32_t bytes = w->bytes < 2048 ? w->bytes : 2048;
    memcpy(m->ram + w->to % (RAM_BYTES - 4096), w->data, bytes);
}

static void port(struct machine *m, struct vcpu *v)
{
    uint32_t value = 0;
    unsigned bytes = v->exit.io.bytes;
    if (v->exit.io.is_in) {
        v->replay.io_bytes = bytes * v->exit.io.count;
        memset(v->replay.io_data, v->exit.io.port == PORT_HOST_WRITE ? 0x56 : v->exit.io.port == PORT_CPUS ? (int)m->vm->n_vcpus : 0xff, v->replay.io_bytes);
        v->replay.io_done = true;
        return;
    }
    memcpy(&value, v->exit.io.data, bytes);
    if (v->exit.io.port == PORT_TEXT) {
        for (uint32_t i = 0; i < v->exit.io.count * bytes; i += bytes)
            text(m, (char)v->exit.io.data[i]);
    } else if (v->exit.io.port == PORT_END) {
        over(m);
    } else if (v->exit.io.port == PORT_HOST_WRITE) {
        host_write(m, value);
    }
}

static void fail(struct machine *m, const struct vcpu *v, const char *why)
{
    printf("not ok - %s: vcpu %u %s at rip %lx cr0 %lx cr3 %lx efer %lx\n", m->name, v->id, why, v->cpu.rip, v->cpu.cr0, v->cpu.cr3, v->cpu.efer);
    m->is_failed = true;
    over(m);
}

static void shut_down(struct machine *m)
{
    printf("ok - triple fault shuts down\n");
    over(m);
}

static void *run(void *arg)
{
    struct cpu_thread *t = arg;
    struct vcpu *v = t->v;
    while (!atomic_load(&t->m->is_over)) {
        int r = vcpu_run(v);
        if (r && r != -EINTR) {
            fail(t->m, v, "does not run");
            break;
        }
        if (r || v->exit.kind == EXIT_NONE || v->exit.kind == EXIT_INTR)
            v->posted.n = v->posted.next = 0;
        else if (v->exit.kind == EXIT_IO)
            port(t->m, v);
        else if (v->exit.kind == EXIT_SHUTDOWN && t->m->expects_shutdown)
            shut_down(t->m);
        else if (v->exit.kind != EXIT_MMIO)
            fail(t->m, v,
                 v->exit.kind == EXIT_SHUTDOWN         ? "shut down"
                 : v->exit.kind == EXIT_INTERNAL_ERROR ? v->exit.internal.text
                                                       : "made an unexpected exit");
        else
            fail(t->m, v, "used memory that is not there");
    }
    return NULL;
}

/* The state that the Multiboot specification promises: flat 32-bit protected mode, paging and interrupts off. */
static void enter_state(struct vcpu *v)
{
    const struct segment data = { .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    struct segment code = data;
    code.selector = 8;
    code.type = 0xb;
    for (int i = 0; i < SEG_COUNT; i++)
        v->cpu.seg[i] = data;
    v->cpu.seg[SEG_CS] = code;
    v->cpu.cr0 = CR0_PE | CR0_ET;
    v->cpu.gpr[GPR_RAX] = 0x2badb002;
    v->cpu.rip = ENTRY_AT;
}

static void set_cpuid(struct vcpu *v)
{
    struct cpuid_entry e[CPUID_ENTRIES_MAX];
    unsigned n = cpuid_supported(e, CPUID_ENTRIES_MAX);
    for (unsigned i = 0; i < n; i++)
        if (e[i].function == 1)
            e[i].ebx |= v->id << 24;
    if (vcpu_set_cpuid(v, e, n))
        abort();
}

static bool load(uint8_t *ram, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    size_t n = fread(ram + IMAGE_AT, 1, RAM_BYTES - IMAGE_AT, f);
    fclose(f);
    return n > 0;
}

/* In system management mode there is a page more, behind the RAM. */
static bool set_memory(struct machine *m)
{
    static _Alignas(4096) uint8_t hidden[4096];
    return !vm_set_memslot(m->vm, 0, 0, 0, RAM_BYTES, m->ram) && !vm_set_memslot(m->vm, SMM_SLOT, 0, 0, RAM_BYTES, m->ram) &&
           !vm_set_memslot(m->vm, SMM_SLOT | 1, 0, RAM_BYTES, sizeof hidden, hidden);
}

/* 0 if all is well. */
static int test_image(const char *path, unsigned n_vcpus)
{
    struct machine m = { .name = path };
    struct cpu_thread thread[VM_VCPUS_MAX];
    m.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m.ram == MAP_FAILED || !load(m.ram, path) || vm_create(&soft_engine_ops, &pc_chip_ops, &m.vm) || !set_memory(&m) || m.vm->chip->irqchip_create(m.vm)) {
        printf("not ok - %s: cannot be set up\n", path);
        return 1;
    }
    for (unsigned i = 0; i < n_vcpus; i++) {
        thread[i].m = &m;
        if (vcpu_create(m.vm, i, &thread[i].v))
            abort();
        set_cpuid(thread[i].v);
    }
    enter_state(thread[0].v);
    for (unsigned i = 0; i < n_vcpus; i++)
        m.vm->engine->state_changed(thread[i].v);
    for (unsigned i = 0; i < n_vcpus; i++)
        pthread_create(&thread[i].thread, NULL, run, &thread[i]);
    for (unsigned i = 0; i < n_vcpus; i++)
        pthread_join(thread[i].thread, NULL);
    for (unsigned i = 0; i < n_vcpus; i++)
        vcpu_destroy(thread[i].v);
    vm_put(m.vm);
    munmap(m.ram, RAM_BYTES);
    return m.is_failed;
}

static void timed_out(int signal)
{
    (void)signal;
    const char *part[] = { "not ok - ", running, ": timed out\n" };
    for (int i = 0; i < 3; i++)
        if (write(1, part[i], strlen(part[i])) < 0)
            break;
    _exit(1);
}

int main(int argc, char **argv)
{
    int failed = 0, option;
    unsigned n_vcpus = 1;
    while ((option = getopt(argc, argv, "sn:")) != -1) {
        if (option == 's')
            soft_set_stepping(true);
        else if (option == 'n' && atoi(optarg) > 0 && atoi(optarg) <= VM_VCPUS_MAX)
            n_vcpus = (unsigned)atoi(optarg);
        else
            return 2;
    }
    signal(SIGALRM, timed_out);
    for (int i = optind; i < argc; i++) {
        running = argv[i];
        alarm(TIMEOUT_SECONDS);
        failed |= test_image(argv[i], n_vcpus);
    }
    return failed;
}
