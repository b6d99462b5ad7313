/* SPDX-License-Identifier: MIT */
/*
 * How fast guest memory is that another process has mapped (vitrine_vm_map), beside memory of this process's own that the kernel made as well, in turns: copies
 * out of it and into it; and how fast it is dumped into a file, beside cp of that file ("dump cp-MB/s dump-MB/s"). Prints "MAPPED kind local-MB/s mapped-MB/s",
 * or "FAIL mapped: reason" with exit status 1. Use: bench_mapped [ROUNDS]. Started by bench/run. The machine is in a child process; it does not run meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/memfd.h"
#include "transport/inproc.h"
#include "vitrine/inspect.h"

#define MAPPED_BYTES (64ull << 20) /* more than caches hold */
#define MAPPED_ROUNDS 20u
#define MAPPED_DUMPS 9u

static double mapped_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int mapped_fail(const char *what)
{
    printf("FAIL mapped: %s: %s\n", what, strerror(errno));
    return 1;
}

static hva_t mapped_memory(void)
{
    hva_t p;
    int fd = memfd_create_sealed("mapped", MAPPED_BYTES);
    if (fd < 0 || memfd_map(fd, 0, MAPPED_BYTES, &p))
        return NULL;
    memset(p, 1, MAPPED_BYTES);
    return p;
}

/* The machine: tells `ready` that it is there, and stays until it is killed. */
static void mapped_machine(int ready)
{
    struct kvm_userspace_memory_region region = { .memory_size = MAPPED_BYTES };
    int device, vm;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    region.userspace_addr = (uintptr_t)mapped_memory();
    device = vitrine_open("/dev/kvm");
    vm = vitrine_ioctl(device, KVM_CREATE_VM, NULL);
    if (vm >= 0 && region.userspace_addr && vitrine_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0 && write(ready, "", 1) == 1)
        pause();
    _exit(1);
}

static double mapped_copy(void *to, const void *from)
{
    double began = mapped_now();
    memcpy(to, from, MAPPED_BYTES);
    return mapped_now() - began;
}

static int mapped_by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double mapped_rate(double *seconds, unsigned n)
{
    qsort(seconds, n, sizeof *seconds, mapped_by_time);
    return (double)MAPPED_BYTES / 1e6 / seconds[n / 2];
}

static int mapped_measure(void *local, void *mapped, void *buffer, unsigned rounds)
{
    double *t = calloc(4 * (size_t)rounds, sizeof *t);
    if (!t)
        return mapped_fail("memory");
    mapped_copy(buffer, local), mapped_copy(buffer, mapped); /* page tables */
    for (unsigned i = 0; i < rounds; i++) {
        t[i] = mapped_copy(buffer, local);
        t[rounds + i] = mapped_copy(buffer, mapped);
        t[2 * rounds + i] = mapped_copy(local, buffer);
        t[3 * rounds + i] = mapped_copy(mapped, buffer);
    }
    printf("MAPPED read %.0f %.0f\n", mapped_rate(t, rounds), mapped_rate(t + rounds, rounds));
    printf("MAPPED write %.0f %.0f\n", mapped_rate(t + 2 * rounds, rounds), mapped_rate(t + 3 * rounds, rounds));
    free(t);
    return 0;
}

/* ---- dumps ---- */

static int mapped_copy_file(const char *from, const char *to)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        execlp("cp", "cp", "--", from, to, (char *)NULL);
        _exit(127);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0 ? 0 : -1;
}

static int mapped_dump(struct vitrine_vm *vm, const char *to)
{
    int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 ? -1 : vitrine_vm_dump(vm, fd, VITRINE_DUMP_RAW, false, NULL, NULL);
    close(fd);
    return r;
}

/* The machine's memory into a file, and that file into another one, in turns. */
static int mapped_measure_dumps(struct vitrine_vm *vm)
{
    char folder[] = "/tmp/vitrine-bench-XXXXXX", dump[64], copy[64];
    double t[2 * MAPPED_DUMPS], begin;
    int r = 0;
    if (!mkdtemp(folder))
        return mapped_fail("a folder");
    snprintf(dump, sizeof dump, "%s/dump", folder);
    snprintf(copy, sizeof copy, "%s/copy", folder);
    for (unsigned i = 0; i < MAPPED_DUMPS && !r; i++) {
        unlink(dump);
        unlink(copy);
        begin = mapped_now();
        r = mapped_dump(vm, dump);
        t[MAPPED_DUMPS + i] = mapped_now() - begin;
        begin = mapped_now();
        r = r ? r : mapped_copy_file(dump, copy);
        t[i] = mapped_now() - begin;
    }
    if (!r)
        printf("MAPPED dump %.0f %.0f\n", mapped_rate(t, MAPPED_DUMPS), mapped_rate(t + MAPPED_DUMPS, MAPPED_DUMPS));
    unlink(dump);
    unlink(copy);
    rmdir(folder);
    return r ? mapped_fail("a dump") : 0;
}

static int mapped_run(pid_t child, unsigned rounds)
{
    char which[16];
    struct vitrine_mapping mapping;
    snprintf(which, sizeof which, "%d", (int)child);
    struct vitrine_vm *vm = vitrine_vm_open(which);
    if (!vm)
        return mapped_fail("open");
    if (vitrine_vm_map(vm, &mapping, 1) != 1 || mapping.bytes != MAPPED_BYTES)
        return mapped_fail("map");
    if (mapped_measure_dumps(vm))
        return 1;
    vitrine_vm_close(vm);
    hva_t local = mapped_memory(), buffer = mapped_memory();
    int r = local && buffer ? mapped_measure(local, mapping.at, buffer, rounds) : mapped_fail("memory");
    vitrine_vm_unmap(&mapping, 1);
    return r;
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : MAPPED_ROUNDS;
    int ready[2];
    char c;
    if (pipe(ready))
        return mapped_fail("pipe");
    pid_t child = fork();
    if (child == 0)
        mapped_machine(ready[1]);
    close(ready[1]);
    int r = child > 0 && read(ready[0], &c, 1) == 1 ? mapped_run(child, rounds ? rounds : 1) : mapped_fail("the machine");
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return r;
}
