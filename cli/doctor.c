/* SPDX-License-Identifier: MIT */
/*
 * `vitrine doctor`: what of this machine matters to vitrine, and which engine runs a guest. Looks, changes nothing, and never fails: what cannot be
 * found out is said to be so.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/inspect.h"

static json_t *doctor_all; /* with --json: what is said, by topic */

__attribute__((format(printf, 2, 3))) static void doctor_line(const char *topic, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (doctor_all)
        json_object_set_new(doctor_all, topic, json_string(text));
    else
        printf("%-14s %s\n", topic, text);
}

static const char *doctor_yes(bool is)
{
    return is ? "yes" : "no";
}

static void doctor_cpu(void)
{
    unsigned a, b, c, d, name[12] = { 0 };
    char vendor[13] = "", *model = (char *)name;
    bool has_invariant_tsc = false, has_bmi2 = false, has_fsgsbase = false, has_avx2 = false, has_avx512 = false, is_guest = false;

    if (__get_cpuid(0, &a, &b, &c, &d)) {
        memcpy(vendor, &b, 4);
        memcpy(vendor + 4, &d, 4);
        memcpy(vendor + 8, &c, 4);
    }
    for (unsigned i = 0; i < 3; i++)
        (void)__get_cpuid(0x80000002 + i, &name[4 * i], &name[4 * i + 1], &name[4 * i + 2], &name[4 * i + 3]);
    model[47] = '\0';
    if (__get_cpuid(1, &a, &b, &c, &d))
        is_guest = c >> 31;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        has_fsgsbase = b & 1;
        has_avx2 = b >> 5 & 1;
        has_bmi2 = b >> 8 & 1;
        has_avx512 = b >> 16 & 1;
    }
    if (__get_cpuid(0x80000007, &a, &b, &c, &d))
        has_invariant_tsc = d >> 8 & 1;
    doctor_line("cpu", "%s, %s, %ld online%s", vendor, *model ? model : "model unknown", sysconf(_SC_NPROCESSORS_ONLN),
                is_guest ? ", itself a virtual machine" : "");
    doctor_line("cpu features", "BMI2 %s, FSGSBASE %s (allowed to programs: %s), AVX2 %s, AVX-512 %s, invariant TSC %s", doctor_yes(has_bmi2),
                doctor_yes(has_fsgsbase), doctor_yes(getauxval(AT_HWCAP2) & 2), doctor_yes(has_avx2), doctor_yes(has_avx512), doctor_yes(has_invariant_tsc));
}

static void doctor_kernel(void)
{
    struct utsname u;

    if (uname(&u) == 0)
        doctor_line("kernel", "%s %s %s", u.sysname, u.release, u.machine);
    else
        doctor_line("kernel", "%s", strerror(errno));
}

/* Asked with a range that holds all of memory: nothing is dispatched while it is on. */
static void doctor_dispatch(void)
{
    bool has = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, ~0ul, NULL) == 0;

    if (has)
        prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
    doctor_line("call dispatch", "%s",
                has ? "yes: 'vitrine run' serves statically linked programs too"
                    : "no: this kernel has no Syscall User Dispatch (Linux 5.11), so 'vitrine run' does not serve statically linked programs");
}

/* Creates a VM and throws it away: the only honest test. */
static void doctor_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version, vm, vcpu;

    if (fd < 0) {
        doctor_line("/dev/kvm", "not usable: %s%s", strerror(errno), errno == EACCES ? " (is this user in the group kvm?)" : "");
        return;
    }
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    vm = version == KVM_API_VERSION ? ioctl(fd, KVM_CREATE_VM, 0) : -1;
    vcpu = vm >= 0 ? ioctl(vm, KVM_CREATE_VCPU, 0) : -1;
    if (vcpu >= 0)
        doctor_line("/dev/kvm", "opens, API version %d, a VM with a CPU can be created, up to %d CPUs", version,
                    ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
    else if (version < 0)
        printf("%-14s opens, but does not speak the KVM ABI\n", "/dev/kvm");
    else
        doctor_line("/dev/kvm", "opens, API version %d, but no VM can be created: %s", version, strerror(errno));
    if (vcpu >= 0)
        close(vcpu);
    if (vm >= 0)
        close(vm);
    close(fd);
}

static void doctor_mshv(void)
{
    int fd = open("/dev/mshv", O_RDWR | O_CLOEXEC);

    doctor_line("/dev/mshv", "%s", fd >= 0 ? "opens" : errno == ENOENT ? "not there" : strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void doctor_memory(void)
{
    struct sysinfo info;
    char setting[128] = "not known";
    FILE *f;
    int fd;

    if (sysinfo(&info) == 0)
        doctor_line("memory", "%llu MiB, %llu MiB free", (unsigned long long)info.totalram * info.mem_unit >> 20,
                    (unsigned long long)(info.freeram + info.bufferram) * info.mem_unit >> 20);
    fd = memfd_create("vitrine-doctor", MFD_CLOEXEC);
    doctor_line("memfd", "%s", fd >= 0 && ftruncate(fd, 4096) == 0 ? "works" : strerror(errno));
    if (fd >= 0)
        close(fd);
    f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
    if (f && fgets(setting, sizeof(setting), f))
        setting[strcspn(setting, "\n")] = '\0';
    if (f)
        fclose(f);
    doctor_line("shmem pages", "%s", setting);
}

int doctor_main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs("usage: vitrine doctor [--json]\n\nSays what this machine offers to virtual machines and which engine vitrine uses. Changes nothing.\n", stdout);
        return CLI_DONE;
    }
    bool is_json = argc == 2 && strcmp(argv[1], "--json") == 0;
    if (argc > 1 && !is_json)
        return cli_error(CLI_USAGE, "doctor", "unexpected argument '%s'", argv[1]);
    doctor_all = is_json ? json_object() : NULL;
    doctor_cpu();
    doctor_kernel();
    doctor_dispatch();
    doctor_kvm();
    doctor_mshv();
    doctor_memory();
    doctor_line("engine", "soft: vitrine's own CPU, which needs nothing from this machine; '--device /dev/kvm' runs a guest on the kernel's KVM instead");
    return is_json ? inspect_print_json("doctor", doctor_all) : CLI_DONE;
}
