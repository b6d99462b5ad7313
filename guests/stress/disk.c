/* SPDX-License-Identifier: MIT */
/*
 * The block device: each pass writes a region of its own, past the page cache and through it, and reads it back. Every sector says what it is, so that the host
 * can check the image afterwards: 8 bytes "vitrine1", number of the sector, serial number of the pass, sum of the 480 bytes behind, these bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "stress.h"

#define REGION_BYTES (256u << 10)
#define SECTOR 512u
#define FIRST_BYTE (4u << 20)

struct sector {
    char magic[8];
    uint64_t number, serial, sum;
    uint8_t data[480];
};

/* As a host's script can compute it without much work: CRC-32 (IEEE). */
static uint32_t crc32(const uint8_t *p, unsigned n)
{
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t v = i;
            for (unsigned k = 0; k < 8; k++)
                v = v & 1 ? v >> 1 ^ 0xedb88320 : v >> 1;
            table[i] = v;
        }
    uint32_t h = ~0u;
    while (n--)
        h = h >> 8 ^ table[(h ^ *p++) & 0xff];
    return ~h;
}

static void fill(struct sector *s, uint64_t first, unsigned n, uint64_t serial)
{
    uint64_t seed = serial + 1;
    for (unsigned i = 0; i < n; i++) {
        memcpy(s[i].magic, "vitrine1", 8);
        s[i].number = first + i;
        s[i].serial = serial;
        for (unsigned k = 0; k < sizeof s[i].data; k++)
            s[i].data[k] = (uint8_t)rng_next(&seed);
        s[i].sum = crc32(s[i].data, sizeof s[i].data);
    }
}

static void transfer(int fd, void *buf, uint64_t at, bool is_write, unsigned chunk)
{
    for (unsigned done = 0; done < REGION_BYTES; done += chunk) {
        unsigned n = REGION_BYTES - done < chunk ? REGION_BYTES - done : chunk;
        ssize_t r = is_write ? pwrite(fd, (char *)buf + done, n, (off_t)(at + done)) : pread(fd, (char *)buf + done, n, (off_t)(at + done));
        if (r != (ssize_t)n)
            fail("%s at %llu: %s", is_write ? "write" : "read", (unsigned long long)(at + done), r < 0 ? strerror(errno) : "short");
    }
}

static void read_and_compare(int fd, void *got, const void *want, uint64_t at, unsigned chunk, const char *how)
{
    memset(got, 0xee, REGION_BYTES);
    transfer(fd, got, at, false, chunk);
    for (unsigned i = 0; i < REGION_BYTES / SECTOR; i++)
        if (memcmp((char *)got + i * SECTOR, (const char *)want + i * SECTOR, SECTOR))
            fail("%s: sector %llu differs", how, (unsigned long long)(at / SECTOR + i));
}

void pass_disk(void)
{
    uint64_t bytes = 0;
    void *want, *got;
    int direct = open(stress_disk, O_RDWR | O_DIRECT | O_CLOEXEC), cached = open(stress_disk, O_RDWR | O_CLOEXEC);
    if (direct < 0 || cached < 0)
        skip("no disk");
    if (ioctl(cached, BLKGETSIZE64, &bytes) || bytes < FIRST_BYTE + 16 * REGION_BYTES)
        fail("the disk is too small");
    if (posix_memalign(&want, 4096, REGION_BYTES) || posix_memalign(&got, 4096, REGION_BYTES))
        fail("no memory");
    unsigned serial = stress_serial();
    uint64_t at = FIRST_BYTE + serial % ((bytes - FIRST_BYTE) / REGION_BYTES) * REGION_BYTES;
    fill(want, at / SECTOR, REGION_BYTES / SECTOR, serial);
    transfer(direct, want, at, true, 64 << 10);
    read_and_compare(direct, got, want, at, 128 << 10, "written and read directly");
    read_and_compare(cached, got, want, at, 4096, "written directly, read through the cache");
    fill(want, at / SECTOR, REGION_BYTES / SECTOR, serial + 1000000);
    transfer(cached, want, at, true, 12 << 10);
    if (fsync(cached))
        fail("fsync: %s", strerror(errno));
    read_and_compare(direct, got, want, at, 512 * 37, "written through the cache, read directly");
    close(direct);
    close(cached);
}
