/* SPDX-License-Identifier: MIT */
/*
 * A KVM client that knows nothing of vitrine: the ways to come by the node and its fds other than open("/dev/kvm"). run-preload runs it under `vitrine run`;
 * with the argument "kernel" it checks on the host's node what vitrine copies from there. Other arguments are for the programs that it starts itself. TAP.
 */
#include <dlfcn.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "client.h"

static char folder[] = "/tmp/vitrine-ways-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[4][PATH_MAX];
    static unsigned n;
    char *p = path[n++ % 4];
    snprintf(p, PATH_MAX, "%s/%s", folder, name);
    return p;
}

static bool is_ours_then_close(int fd)
{
    bool is_ours = is_device(fd) && is_vitrine(fd);
    if (fd >= 0)
        close(fd);
    return is_ours;
}

static bool opens(const char *path)
{
    struct stat st;
    struct statx sx;
    return is_ours_then_close(open(path, O_RDWR | O_CLOEXEC)) && stat(path, &st) == 0 && is_node(&st) && access(path, R_OK | W_OK) == 0 &&
           statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &sx) == 0 && sx.stx_rdev_major == 10 && sx.stx_rdev_minor == 232;
}

/* Those of vitrine's: a VM holds its own file. */
static unsigned count_fds(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += is_vitrine(fd);
    errno = 0;
    return n;
}

/* ---- by name ---- */

static void spelled(void)
{
    struct stat st;
    int dev = open("/dev", O_RDONLY | O_DIRECTORY), root = open("/", O_PATH);
    check(opens("//dev/kvm") && opens("/dev//kvm") && opens("/dev/./kvm") && opens("/dev/../dev/kvm") && opens("/proc/../dev/kvm"), "other spellings");
    check(is_ours_then_close(openat(dev, "kvm", O_RDWR)) && is_ours_then_close(openat(root, "dev/kvm", O_RDWR)), "openat: from a folder");
    check(fstatat(dev, "kvm", &st, 0) == 0 && is_node(&st) && faccessat(dev, "./kvm", W_OK, 0) == 0, "fstatat, faccessat: from a folder");
    check(chdir("/dev") == 0 && opens("kvm") && opens("./kvm") && opens("../dev/kvm") && chdir("/") == 0 && opens("dev/kvm"), "relative to the current folder");
    check(fails(open("/dev/kvm/", O_RDWR), ENOTDIR) || errno == ENOENT, "a slash behind it");
    int file = open(in_folder("kvm"), O_CREAT | O_RDWR, 0600);
    check(file >= 0 && fails(ioctl(file, KVM_GET_API_VERSION, 0), ENOTTY) && stat(in_folder("kvm"), &st) == 0 && S_ISREG(st.st_mode), "another file named kvm");
    close(file), close(dev), close(root), unlink(in_folder("kvm"));
}

static void linked(void)
{
    struct stat st;
    char name[PATH_MAX], target[PATH_MAX];
    bool is_made =
        !symlink(NODE, in_folder("node")) && !symlink("node", in_folder("far")) && !symlink("/dev", in_folder("d")) && !symlink("kvmx", in_folder("dead"));
    check(is_made && opens(in_folder("node")) && opens(in_folder("far")), "links to it");
    check(opens(in_folder("d/kvm")) && lstat(in_folder("d/kvm"), &st) == 0 && is_node(&st), "a link to its folder");
    check(lstat(in_folder("node"), &st) == 0 && S_ISLNK(st.st_mode) && readlink(in_folder("node"), target, sizeof target) == strlen(NODE), "a link is a link");
    check(fails(open(in_folder("node"), O_RDWR | O_NOFOLLOW), ELOOP), "O_NOFOLLOW");
    check(fails(open(in_folder("dead"), O_RDWR), ENOENT) && fails(stat(in_folder("dead"), &st), ENOENT), "a link to nowhere");
    check(realpath(in_folder("far"), name) == name && !strcmp(name, NODE) && realpath("/dev/./kvm", name) && !strcmp(name, NODE), "realpath");
    char *canonical = canonicalize_file_name(in_folder("d/kvm"));
    check(canonical && !strcmp(canonical, NODE), "canonicalize_file_name");
    free(canonical);
    unlink(in_folder("node")), unlink(in_folder("far")), unlink(in_folder("d")), unlink(in_folder("dead"));
}

/* A node of KVM's number elsewhere, as in a container: the host may have no driver for it, or one that works. */
static void other_node(void)
{
    if (mknod(in_folder("other"), S_IFCHR | 0600, makedev(10, 232))) {
        printf("ok - a node elsewhere # SKIP mknod: %s\n", strerror(errno));
        return;
    }
    check(opens(in_folder("other")), "a node elsewhere");
    unlink(in_folder("other"));
}

/* Everybody may use the node, and root may change what he likes of it; the host's stays as it is. */
static void changed(void)
{
    int want = geteuid() == 0 ? 0 : -1;
    bool is_right = chmod(NODE, 0600) == want && chown(NODE, 1, 1) == want && lchown("/dev/./kvm", 1, 1) == want;
    check(is_right && fchmodat(AT_FDCWD, NODE, 0600, 0) == want && fchownat(AT_FDCWD, NODE, 1, 1, 0) == want && opens(NODE), "its owner and mode");
    check(fails(getxattr(NODE, "user.x", NULL, 0), ENOTSUP) && fails(lsetxattr(NODE, "user.x", "y", 1, 0), ENOTSUP), "it has no extended attributes");
    int file = open(in_folder("file"), O_CREAT | O_RDWR, 0600);
    struct stat st;
    check(chmod(in_folder("file"), 0640) == 0 && fstat(file, &st) == 0 && (st.st_mode & 0777) == 0640, "another file's mode");
    close(file), unlink(in_folder("file"));
}

/* ---- by other calls ---- */

static void streams(void)
{
    FILE *f = fopen(NODE, "r+");
    check(f && is_device(fileno(f)) && fcntl(fileno(f), F_GETFD) == 0, "fopen");
    int fd = f ? fileno(f) : -1;
    check(f && fclose(f) == 0 && fails(ioctl(fd, KVM_GET_API_VERSION, 0), EBADF), "fclose");
    f = fopen64("/dev//kvm", "re");
    check(f && is_device(fileno(f)) && fcntl(fileno(f), F_GETFD) == FD_CLOEXEC && fclose(f) == 0, "fopen64, close-on-exec");
    check(!fopen(NODE, "wx") && errno == EEXIST, "fopen: exclusive");
    fd = open(NODE, O_RDWR | O_CLOEXEC);
    close(ioctl(fd, KVM_CREATE_VM, 0)); /* the first VM opens the socket for tools, which stays */
    unsigned n = count_fds();
    f = fdopen(ioctl(fd, KVM_CREATE_VM, 0), "r+");
    check(f && ioctl(fileno(f), KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0 && fclose(f) == 0 && count_fds() == n, "fclose of a VM ends it");
    close(fd);
}

static void by_number(void)
{
    struct stat st;
    struct open_how how = { .flags = O_RDWR };
    long fd = syscall(SYS_open, NODE, O_RDWR, 0), at = syscall(SYS_openat, AT_FDCWD, "/dev/./kvm", O_RDWR | O_CLOEXEC, 0),
         how_fd = syscall(SYS_openat2, -1, NODE, &how, sizeof how);
    check(is_vitrine((int)fd) && is_vitrine((int)at), "syscall: open, openat");
    check((how_fd < 0 && errno == ENOSYS) || is_ours_then_close((int)how_fd), "syscall: openat2");
    check(syscall(SYS_ioctl, fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION, "syscall: ioctl");
    check(syscall(SYS_fstat, fd, &st) == 0 && is_node(&st) && syscall(SYS_stat, NODE, &st) == 0 && is_node(&st) && syscall(SYS_access, NODE, R_OK) == 0,
          "syscall: stat, access");
    long copy = syscall(SYS_dup, fd), far = syscall(SYS_fcntl, fd, F_DUPFD, 90);
    check(syscall(SYS_close, fd) == 0 && is_device((int)copy) && is_device((int)far) && far >= 90, "syscall: dup, fcntl, close");
    check(syscall(SYS_close_range, far, far, 0) == 0 && fails(syscall(SYS_ioctl, far, KVM_GET_API_VERSION, 0), EBADF), "syscall: close_range");
    check(fails(syscall(SYS_openat, AT_FDCWD, "/nowhere", O_RDONLY, 0), ENOENT) && syscall(SYS_getpid) == getpid(), "syscall: others");
    close((int)copy), close((int)at);
}

static void loaded(const char *module)
{
    void *handle = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    int (*version)(void) = handle ? (int (*)(void))dlsym(handle, "loaded_version") : NULL;
    check(version && version() == KVM_API_VERSION, "a library that is loaded later");
    if (handle)
        dlclose(handle);
}

static void close_on_exec(void)
{
    int fd = open(NODE, O_RDWR), vm = ioctl(fd, KVM_CREATE_VM, 0), high = fcntl(vm, F_DUPFD, 300);
    check(close_range(300, 400, CLOSE_RANGE_CLOEXEC) == 0 && fcntl(high, F_GETFD) == FD_CLOEXEC, "close_range: close-on-exec");
    close(vm);
    check(ioctl(high, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0, "and what it marked is open");
    close(high), close(fd);
}

/* ---- from other programs ---- */

/* In the program that was started: 0 if the fd is a device that can make VMs. */
static int inherited(const char *number)
{
    int fd = atoi(number), vm = is_device(fd) && is_vitrine(fd) ? ioctl(fd, KVM_CREATE_VM, 0) : -1;
    return vm < 0 || close(vm) || close(fd) || !fails(ioctl(fd, KVM_GET_API_VERSION, 0), EBADF);
}

/* 0 if the fd is a VM that ended with its program. */
static int ended(const char *number)
{
    int fd = atoi(number);
    return !fails(ioctl(fd, KVM_CREATE_VCPU, 0), EIO) || close(fd);
}

static bool spawns(const char *what, int fd, int as)
{
    char number[16], path[] = "/proc/self/exe";
    char *args[] = { path, (char *)what, number, NULL };
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status = 1;
    snprintf(number, sizeof number, "%d", as);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, as);
    bool is_spawned = posix_spawn(&child, path, &actions, NULL, args, environ) == 0 && waitpid(child, &status, 0) == child;
    posix_spawn_file_actions_destroy(&actions);
    return is_spawned && status == 0;
}

static bool execs(const char *what, int fd)
{
    char number[16];
    int status = 1;
    snprintf(number, sizeof number, "%d", fd);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        fcntl(fd, F_SETFD, 0);
        execl("/proc/self/exe", "ways", what, number, (char *)NULL);
        _exit(1);
    }
    return waitpid(child, &status, 0) == child && status == 0;
}

static void kept_over_exec(void)
{
    int fd = open(NODE, O_RDWR | O_CLOEXEC), vm = ioctl(fd, KVM_CREATE_VM, 0);
    check(execs("inherited", fd), "a device fd works after fork and exec");
    check(spawns("inherited", fd, 77), "a device fd works in a program of posix_spawn");
    check(execs("ended", vm) && spawns("ended", vm, 77), "a VM fd is EIO there");
    check(ioctl(vm, KVM_CREATE_VCPU, 0) >= 0, "and works on here");
    close(vm), close(fd);
}

static void from_other_process(void)
{
    int pair[2], status;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        int fd = open(NODE, O_RDWR), vm = ioctl(fd, KVM_CREATE_VM, 0);
        _exit(!send_fd(pair[1], fd) || !send_fd(pair[1], vm));
    }
    int fd = receive_fd(pair[0]), vm = receive_fd(pair[0]), own = ioctl(fd, KVM_CREATE_VM, 0);
    check(is_device(fd) && own >= 0, "a device fd from another process");
    check(fails(ioctl(vm, KVM_CREATE_VCPU, 0), EIO), "a VM fd from another process is EIO");
    waitpid(child, &status, 0);
    close(own), close(vm), close(fd), close(pair[0]), close(pair[1]);
}

/* Closed by the sender before anybody has received them. */
static void on_their_way(void)
{
    int pair[2], fd = open(NODE, O_RDWR | O_CLOEXEC);
    struct kvm_regs regs;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return;
    unsigned n = count_fds();
    int vm = ioctl(fd, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    bool is_sent = send_fd(pair[0], vm) && send_fd(pair[0], vcpu) && send_fd(pair[0], vm) && close(vm) == 0 && close(vcpu) == 0;
    int got = receive_fd(pair[1]), got_vcpu = receive_fd(pair[1]), again = -1;
    check(is_sent && ioctl(got_vcpu, KVM_GET_REGS, &regs) == 0 && regs.rip == 0xfff0, "a vCPU that was open in a socket only");
    close(got);
    again = receive_fd(pair[1]);
    check(ioctl(again, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0, "a VM that was open in a socket only");
    close(again), close(got_vcpu);
    check(count_fds() == n, "and they end with their last fd");
    vm = ioctl(fd, KVM_CREATE_VM, 0);
    close(pair[1]);
    check(!send_fd(pair[0], vm) && close(vm) == 0 && count_fds() == n, "a VM that could not be sent ends too");
    close(pair[0]), close(fd);
}

/* ---- as in the kernel ---- */

static bool shows(int fd, const char *want)
{
    char path[40], target[64] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return readlink(path, target, sizeof target - 1) == (ssize_t)strlen(want) && !strcmp(target, want);
}

/* Never ready, and not for epoll. */
static bool polls(int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI };
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    bool is_refused = fails(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EPERM);
    close(epoll);
    return is_refused && poll(&p, 1, 0) == 1 && p.revents == (POLLIN | POLLOUT);
}

static bool has_no_type(int fd)
{
    struct stat st, at;
    return fstat(fd, &st) == 0 && st.st_mode == 0600 && st.st_size == 0 && fstatat(fd, "", &at, AT_EMPTY_PATH) == 0 && at.st_mode == 0600;
}

static volatile sig_atomic_t n_came;
static volatile pid_t came_to;

static void count_one(int sig)
{
    (void)sig;
    n_came++;
    came_to = gettid();
}

/* What is sent to the process waits for a thread of the client's, though vitrine has threads of its own. */
static void signal_waits(int vm)
{
    sigset_t set, pending, old;
    struct sigaction action = { .sa_handler = count_one };
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV), sigaddset(&set, SIGBUS);
    ioctl(vm, KVM_CREATE_IRQCHIP, 0);
    sigaction(SIGSEGV, &action, NULL), sigaction(SIGBUS, &action, NULL);
    sigprocmask(SIG_BLOCK, &set, &old);
    kill(getpid(), SIGSEGV), kill(getpid(), SIGBUS);
    usleep(50000); /* time for others to take them, were they to */
    for (unsigned ms = 0; ms < 60000 && !n_came; ms++) {
        if (sigpending(&pending) == 0 && sigismember(&pending, SIGSEGV) && sigismember(&pending, SIGBUS))
            break;
        usleep(1000);
    }
    check(n_came == 0 && sigismember(&pending, SIGSEGV) && sigismember(&pending, SIGBUS), "kernel: sent SIGSEGV and SIGBUS stay blocked");
    sigprocmask(SIG_SETMASK, &old, NULL);
    check(n_came == 2 && came_to == getpid(), "kernel: and come when they may");
}

static void as_in_kernel(void)
{
    struct stat st;
    int fd = open(NODE, O_RDWR | O_CLOEXEC), vm = ioctl(fd, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    check(shows(fd, NODE) && shows(vm, "anon_inode:kvm-vm"), "kernel: links of /proc/self/fd");
    check(fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232), "kernel: fstatat of a device fd");
    check(has_no_type(vm) && has_no_type(vcpu), "kernel: fstat of a VM and a vCPU");
    check(polls(fd) && polls(vm) && polls(vcpu), "kernel: poll and epoll");
    check(fcntl(vm, F_GETFD) == FD_CLOEXEC && fcntl(vcpu, F_GETFD) == FD_CLOEXEC, "kernel: close-on-exec");
    int machine = ioctl(fd, KVM_CREATE_VM, 0);
    signal_waits(machine);
    close(machine), close(vcpu), close(vm), close(fd);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "inherited"))
        return inherited(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "ended"))
        return ended(argv[2]);
    if (argc == 2 && !strcmp(argv[1], "kernel")) {
        as_in_kernel();
        return has_failed;
    }
    if (argc != 2 || !mkdtemp(folder))
        return 2;
    signal(SIGPIPE, SIG_IGN);
    spelled();
    linked();
    other_node();
    changed();
    streams();
    by_number();
    loaded(argv[1]);
    close_on_exec();
    kept_over_exec();
    from_other_process();
    on_their_way();
    as_in_kernel();
    rmdir(folder);
    return has_failed;
}
