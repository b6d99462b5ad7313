/* SPDX-License-Identifier: MIT */
/*
 * A KVM client that knows nothing of vitrine: what it sees of the node and its fds. run-preload runs it under `vitrine run`; by itself (argument "plain") it
 * checks only what holds for every other path, so that both runs must print the same for those. TAP.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

/* ---- other paths ---- */

static void others(void)
{
    char name[] = "/tmp/vitrine-node-XXXXXX", copy[64];
    struct stat st;
    struct statx sx;
    const char *volatile no_path = NULL;
    int fd = mkstemp(name);
    umask(022);
    check(fd >= 0 && write(fd, "x", 1) == 1, "other: a file is created and written");
    check(stat(name, &st) == 0 && st.st_size == 1 && S_ISREG(st.st_mode), "other: stat");
    check(lstat("/proc/self", &st) == 0 && S_ISLNK(st.st_mode), "other: lstat sees a link");
    check(fstat(fd, &st) == 0 && st.st_size == 1, "other: fstat");
    check(statx(AT_FDCWD, name, 0, STATX_SIZE, &sx) == 0 && sx.stx_size == 1, "other: statx");
    check(readlink("/proc/self/exe", copy, sizeof copy) > 0, "other: readlink");
    check(fails(open(name, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST), "other: O_EXCL");
    check(fails(open("/dev/kvm/x/y", O_RDONLY), ENOTDIR) || errno == ENOENT, "other: a path that begins like the node");
    check(fails(open("/dev/kvmx", O_RDONLY), ENOENT), "other: a longer name");
    check(fails(open(no_path, O_RDONLY), EFAULT), "other: NULL");
    check(fails(access("/nowhere", F_OK), ENOENT), "other: access");
    int other = dup(fd), third = fcntl(fd, F_DUPFD, 50);
    check(other >= 0 && third >= 50 && close(other) == 0 && fails(close(other), EBADF), "other: dup, close, close again");
    check(dup2(fd, third) == third && dup3(fd, 51, O_CLOEXEC) == 51 && fcntl(51, F_GETFD) == FD_CLOEXEC, "other: dup2 and dup3");
    check(fails(dup2(-1, 51), EBADF) && fails(ioctl(fd, KVM_GET_API_VERSION, 0), ENOTTY) && fails(ioctl(-1, KVM_RUN, 0), EBADF), "other: errors");
    check(close_range(50, 51, 0) == 0 && fails(fcntl(50, F_GETFD), EBADF), "other: close_range");
    mode_t mode = (unlink(name), close(fd), fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0640), fstat(fd, &st), st.st_mode);
    check((mode & 07777) == 0640 && fcntl(fd, F_GETFD) == FD_CLOEXEC, "other: mode of open's third argument");
    close(fd);
    unlink(name);
}

/* ---- the node ---- */

static void node_by_path(void)
{
    struct stat st;
    struct statx sx;
    char target[8];
    check(stat(NODE, &st) == 0 && is_node(&st), "stat: a character device 10:232, 0666");
    check(lstat(NODE, &st) == 0 && is_node(&st), "lstat");
    check(fstatat(AT_FDCWD, NODE, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_node(&st), "fstatat");
    check(statx(AT_FDCWD, NODE, 0, STATX_BASIC_STATS, &sx) == 0 && S_ISCHR(sx.stx_mode) && sx.stx_rdev_major == 10 && sx.stx_rdev_minor == 232, "statx");
    check(access(NODE, R_OK | W_OK) == 0 && access(NODE, F_OK) == 0, "access");
    check(fails(access(NODE, X_OK), EACCES) && fails(access(NODE, 64), EINVAL), "access: not executable");
    check(faccessat(AT_FDCWD, NODE, R_OK, AT_EACCESS) == 0 && euidaccess(NODE, W_OK) == 0 && eaccess(NODE, R_OK) == 0, "faccessat, euidaccess, eaccess");
    check(fails(readlink(NODE, target, sizeof target), EINVAL), "readlink: not a link");
    check(fails(open(NODE, O_RDWR | O_DIRECTORY), ENOTDIR) && fails(open(NODE, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST), "open: flags that fail");
}

static void node_opened(void)
{
    struct stat st;
    int fd = open(NODE, O_RDWR), closed = open64(NODE, O_RDWR | O_CLOEXEC), at = openat(AT_FDCWD, NODE, O_RDWR);
    check(is_device(fd) && is_device(closed) && is_device(at), "open, open64, openat");
    check(is_vitrine(fd), "open: it is vitrine");
    check(fcntl(fd, F_GETFD) == 0 && fcntl(closed, F_GETFD) == FD_CLOEXEC, "open: close-on-exec as asked");
    check(fstat(fd, &st) == 0 && is_node(&st), "fstat");
    check(fails(ioctl(fd, _IO(KVMIO, 0xfe), 0), EINVAL) || errno == ENOTTY, "ioctl: unknown");
    check(close(closed) == 0 && fails(ioctl(closed, KVM_GET_API_VERSION, 0), EBADF) && fails(close(closed), EBADF), "close");
    close(at);
    close(fd);
}

static void duplicates(void)
{
    int fd = open(NODE, O_RDWR | O_CLOEXEC), vm = ioctl(fd, KVM_CREATE_VM, 0);
    check(vm >= 0 && fcntl(vm, F_GETFD) == FD_CLOEXEC, "KVM_CREATE_VM: an fd, close-on-exec");
    int a = dup(vm), b = fcntl(vm, F_DUPFD_CLOEXEC, 100);
    check(b >= 100 && close(vm) == 0, "dup, F_DUPFD_CLOEXEC");
    int vcpu = ioctl(a, KVM_CREATE_VCPU, 0);
    check(vcpu >= 0, "a duplicate works when the first fd is closed");
    check(close(a) == 0 && ioctl(b, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0, "and so does the next");
    int bytes = ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    void *run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    check(run != MAP_FAILED, "mmap of a vCPU");
    check(dup2(fd, b) == b && is_device(b), "dup2 over a VM: the number is the device now");
    struct kvm_regs regs;
    check(ioctl(vcpu, KVM_GET_REGS, &regs) == 0 && regs.rip == 0xfff0, "the VM lives while its vCPU does");
    int null = open("/dev/null", O_RDWR);
    check(dup3(null, b, O_CLOEXEC) == b && fails(ioctl(b, KVM_GET_API_VERSION, 0), ENOTTY), "dup3 of another file over the device");
    check(close_range((unsigned)b, (unsigned)b, 0) == 0 && fails(close(b), EBADF), "close_range");
    int far = fcntl(vcpu, F_DUPFD, 200);
    closefrom(200);
    check(fails(ioctl(far, KVM_GET_REGS, &regs), EBADF), "closefrom");
    FILE *f = fdopen(dup(vcpu), "r");
    int hidden = fileno(f);
    fclose(f);
    int again = open("/dev/null", O_RDWR);
    check(again == hidden && fails(ioctl(again, KVM_GET_REGS, &regs), ENOTTY), "a number that fclose freed is not believed");
    check(close(again) == 0 && ioctl(vcpu, KVM_GET_REGS, &regs) == 0, "and its close closes the other file");
    munmap(run, (size_t)bytes);
    close(vcpu);
    close(null);
    close(fd);
}

static void over_socket(void)
{
    int pair[2], fd = open(NODE, O_RDWR | O_CLOEXEC), vm = ioctl(fd, KVM_CREATE_VM, 0);
    int got = socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && send_fd(pair[0], vm) ? receive_fd(pair[1]) : -1;
    check(got >= 0 && ioctl(got, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0, "an fd that came over a socket");
    close(vm);
    int vcpu = ioctl(got, KVM_CREATE_VCPU, 0);
    check(vcpu >= 0, "and it keeps the VM");
    close(vcpu), close(got), close(fd), close(pair[0]), close(pair[1]);
}

/* ---- processes ---- */

/* A guest of one HLT in real mode: the exit reason, or -1. */
static int run_guest(int fd)
{
    int vm = ioctl(fd, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    uint8_t *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = 4096, .userspace_addr = (uintptr_t)memory };
    struct kvm_run *run = mmap(NULL, (size_t)ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rflags = 2, .rip = 0x100 };
    memory[0x100] = 0xf4;
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) || ioctl(vcpu, KVM_GET_SREGS, &sregs))
        return -1;
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs) || ioctl(vcpu, KVM_RUN, 0))
        return -1;
    int reason = (int)run->exit_reason;
    close(vcpu);
    close(vm);
    return reason;
}

static bool child_says_yes(bool (*body)(int fd, int vm, int vcpu), int fd, int vm, int vcpu)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        alarm(20);
        _exit(body(fd, vm, vcpu) ? 0 : 1);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static bool child_of_vm(int fd, int vm, int vcpu)
{
    struct kvm_regs regs;
    bool is_refused = fails(ioctl(vcpu, KVM_GET_REGS, &regs), EIO) && fails(ioctl(vcpu, KVM_RUN, 0), EIO) && fails(ioctl(vm, KVM_CREATE_VCPU, 1), EIO);
    return is_refused && is_device(fd) && close(vcpu) == 0 && close(vm) == 0;
}

static bool child_with_own(int fd, int vm, int vcpu)
{
    (void)vm, (void)vcpu;
    return run_guest(fd) == KVM_EXIT_HLT;
}

static void close_after_vfork(int fd)
{
    int status;
    pid_t child = vfork();
    if (!child) {
        close(fd);
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    waitpid(child, &status, 0);
}

static void processes(void)
{
    int fd = open(NODE, O_RDWR | O_CLOEXEC), vm, vcpu;
    struct kvm_regs regs;
    check(run_guest(fd) == KVM_EXIT_HLT, "a guest runs");
    vm = ioctl(fd, KVM_CREATE_VM, 0);
    ioctl(vm, KVM_CREATE_IRQCHIP, 0);
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    check(child_says_yes(child_of_vm, fd, vm, vcpu), "fork: EIO for the parent's VM and vCPU, close is harmless");
    check(ioctl(vcpu, KVM_GET_REGS, &regs) == 0, "fork: the parent goes on");
    check(child_says_yes(child_with_own, fd, vm, vcpu), "fork: the child runs a guest of its own");
    close_after_vfork(vcpu);
    check(ioctl(vcpu, KVM_GET_REGS, &regs) == 0, "vfork: what the child closes stays the parent's");
    check(system("test -c " NODE) == 0, getenv("LD_PRELOAD") ? "a child program sees the node" : "a child program sees the host's");
    close(vcpu), close(vm), close(fd);
}

/* Something that is not supported, for the log. */
static int refused(void)
{
    int fd = open(NODE, O_RDWR);
    return fd < 0 || !fails(ioctl(fd, _IO(KVMIO, 0xfe), 0), EINVAL);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "refused"))
        return refused();
    others();
    if (argc < 2 || strcmp(argv[1], "plain")) {
        node_by_path();
        node_opened();
        duplicates();
        over_socket();
        processes();
    }
    return has_failed;
}
