/* SPDX-License-Identifier: MIT */
/*
 * The conformance driver: every case is written once and runs on each peer, vitrine in process and the host's /dev/kvm. A case runs in a child process
 * of its own, so a crash or a hang is that case's failure only. Output is TAP.
 */
#ifndef VITRINE_TESTS_CONFORM_H
#define VITRINE_TESTS_CONFORM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/port.h"

struct peer {
    const char *name; /* "vitrine" or "host" */
    const struct port *port;
    bool is_host;
};

struct conform_case {
    const char *name;
    void (*run)(const struct peer *p);
};

/* A chosen difference: the case is not judged on that peer, and why. Peer "pvm" is a host whose KVM is kvm_pvm. */
struct conform_difference {
    const char *peer, *test, *reason;
};

/* argv: names of peers or cases to run; none: all. Returns main's exit status. */
int conform_main(int argc, char **argv, const struct conform_case *cases, size_t n_cases, const struct conform_difference *differences, size_t n_differences);

/* Notes a failure of the running case and goes on. */
void conform_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Ends the running case. */
_Noreturn void conform_stop(void);
_Noreturn void conform_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ioctl that must succeed: stops the case if not. */
int conform_ioctl(const struct peer *p, int fd, unsigned long request, void *arg, const char *what, const char *file, int line);
/* ioctl that must fail with that errno (0: must succeed). */
void conform_errno(const struct peer *p, int fd, unsigned long request, void *arg, int want, const char *what, const char *file, int line);
void conform_bytes(const void *got, const void *want, size_t bytes, const char *what, const char *file, int line);

/* clang-format off */
#define CHECK(claim) do { if (!(claim)) conform_fail(__FILE__, __LINE__, "%s", #claim); } while (0)
#define REQUIRE(claim) do { if (!(claim)) { conform_fail(__FILE__, __LINE__, "%s", #claim); conform_stop(); } } while (0)
#define CHECK_EQ(got, want) do { \
    unsigned long long got_ = (unsigned long long)(got), want_ = (unsigned long long)(want); \
    if (got_ != want_) conform_fail(__FILE__, __LINE__, "%s is %#llx, want %#llx", #got, got_, want_); } while (0)
#define REQUIRE_EQ(got, want) do { \
    unsigned long long got_ = (unsigned long long)(got), want_ = (unsigned long long)(want); \
    if (got_ != want_) { conform_fail(__FILE__, __LINE__, "%s is %#llx, want %#llx", #got, got_, want_); conform_stop(); } } while (0)
#define CALL(fd, request, arg) conform_ioctl(p, fd, request, (void *)(uintptr_t)(arg), #request, __FILE__, __LINE__)
#define CHECK_ERRNO(fd, request, arg, want) conform_errno(p, fd, request, (void *)(uintptr_t)(arg), want, #request "(" #arg ")", __FILE__, __LINE__)
#define CHECK_BYTES(got, want, bytes) conform_bytes(got, want, bytes, #got, __FILE__, __LINE__)
/* clang-format on */

/* Payloads: guests/payload_*.S assembled into the test. */
#define PAYLOAD(name) extern const uint8_t payload_##name[], payload_##name##_end[]
#define PAYLOAD_BYTES(name) ((size_t)(payload_##name##_end - payload_##name))

#endif
