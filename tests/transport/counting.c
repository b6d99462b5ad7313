/* SPDX-License-Identifier: MIT */
/*
 * A small KVM client whose guest counts at guest-physical 0x2000 and copies the byte at 0x3000 to 0x3001, for programs that look at its memory. Use: counting
 * KIND, what its memory is. Prints "ready", runs until it is killed. Knows nothing of vitrine. Started by run-memflow.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES 0x10000u
#define HIGH_GPA 0x100000u
#define HIGH_BYTES 0x200000u

/* 1: inc dword [0x2000]; mov al, [0x3000]; mov [0x3001], al; jmp 1b */
static const uint8_t code[] = { 0x66, 0xff, 0x06, 0x00, 0x20, 0xa0, 0x00, 0x30, 0xa2, 0x01, 0x30, 0xeb, 0xf3 };

static int vm;

static void *must(void *p, const char *what)
{
    if (p != MAP_FAILED)
        return p;
    perror(what);
    exit(1);
}

static int must_fd(int fd, const char *what)
{
    if (fd >= 0)
        return fd;
    perror(what);
    exit(1);
}

static void set_slot(uint32_t slot, uint64_t gpa, void *at, uint64_t bytes)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at };
    must_fd(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static uint8_t *file_memory(uint64_t bytes, uint64_t file_bytes, int is_kept)
{
    int fd = must_fd(memfd_create("counting", MFD_CLOEXEC), "memfd");
    must_fd(ftruncate(fd, (off_t)file_bytes), "ftruncate");
    uint8_t *p = must(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap");
    if (!is_kept)
        close(fd);
    return p;
}

static uint8_t *private_memory(uint64_t bytes)
{
    return must(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
}

/* The slot at 0, which has the code, and another above it, given first. */
static uint8_t *make_memory(const char *kind)
{
    uint8_t *low, *high = file_memory(HIGH_BYTES, HIGH_BYTES, 1);
    if (!strcmp(kind, "private"))
        low = private_memory(BYTES);
    else if (!strcmp(kind, "closed"))
        low = file_memory(BYTES, BYTES, 0);
    else if (!strcmp(kind, "short")) /* a slot that is larger than its file */
        low = file_memory(BYTES, BYTES / 2, 1);
    else
        low = file_memory(BYTES, BYTES, 1);
    if (!strcmp(kind, "pieces")) { /* a slot over two files and private memory in between */
        must(mmap(low + BYTES / 4, BYTES / 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), "mmap");
        memset(low + BYTES / 4, 0x11, BYTES / 4);
        low = mremap(low, BYTES, BYTES, 0);
        must(mremap(file_memory(BYTES / 2, BYTES / 2, 1), BYTES / 2, BYTES / 2, MREMAP_MAYMOVE | MREMAP_FIXED, low + BYTES / 2), "mremap");
        memset(low + BYTES / 2, 0x22, BYTES / 2);
    }
    memset(high, 0x33, HIGH_BYTES);
    set_slot(7, HIGH_GPA, high, HIGH_BYTES);
    memcpy(low + 0x1000, code, sizeof code);
    set_slot(3, 0, low, BYTES);
    return low;
}

int main(int argc, char **argv)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
    int kvm = must_fd(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    vm = must_fd(ioctl(kvm, KVM_CREATE_VM, 0ul), "KVM_CREATE_VM");
    make_memory(argc > 1 ? argv[1] : "");
    int vcpu = must_fd(ioctl(vm, KVM_CREATE_VCPU, 0ul), "KVM_CREATE_VCPU");
    must(mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0ul), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0), "kvm_run");
    must_fd(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    must_fd(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    must_fd(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    puts("ready");
    fflush(stdout);
    ioctl(vcpu, KVM_RUN, 0ul);
    perror("KVM_RUN ended");
    return 1;
}
