// SPDX-License-Identifier: MIT

// A KVM client in Go, without a C library: system calls from many goroutines while the collector works and preempts them by signals. What run-static runs under
// `vitrine run`; with the argument "plain", only what is not about the node. TAP.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	getAPIVersion    = 0xae00
	createVM         = 0xae01
	getVCPUMmapSize  = 0xae04
	createVCPU       = 0xae41
	setMemoryRegion  = 0x4020ae46
	run              = 0xae80
	setRegs          = 0x4090ae82
	getSregs         = 0x8138ae83
	setSregs         = 0x4138ae84
	exitReasonOffset = 8
	exitIO           = 2
	ioDataOffset     = 40
)

var hasFailed bool

func check(claim bool, name string, why ...interface{}) {
	if claim {
		fmt.Println("ok -", name)
		return
	}
	fmt.Println("not ok -", name)
	fmt.Println("#", why)
	hasFailed = true
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	r, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

type region struct {
	slot, flags      uint32
	gpa, size, start uint64
}

// Counts the exits of a guest that writes to a port without end.
func countExits(exits int) (int, error) {
	fd, err := syscall.Open("/dev/kvm", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	vm, err := ioctl(fd, createVM, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(vm)
	memory, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer syscall.Munmap(memory)
	copy(memory[0x100:], []byte{0xe6, 0x10, 0x40, 0xeb, 0xfb}) // out 0x10, al; inc ax; jmp
	r := region{size: 4096, start: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if _, err = ioctl(vm, setMemoryRegion, uintptr(unsafe.Pointer(&r))); err != nil {
		return 0, err
	}
	vcpu, err := ioctl(vm, createVCPU, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(vcpu)
	bytes, _ := ioctl(fd, getVCPUMmapSize, 0)
	state, err := syscall.Mmap(vcpu, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer syscall.Munmap(state)
	var sregs [312]byte
	if _, err = ioctl(vcpu, getSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return 0, err
	}
	copy(sregs[0:8], make([]byte, 8))   // cs.base
	copy(sregs[12:14], make([]byte, 2)) // cs.selector
	var regs [18]uint64
	regs[16], regs[17] = 0x100, 2 // rip, rflags
	if _, err = ioctl(vcpu, setSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return 0, err
	}
	if _, err = ioctl(vcpu, setRegs, uintptr(unsafe.Pointer(&regs))); err != nil {
		return 0, err
	}
	n := 0
	for n < exits {
		_, err = ioctl(vcpu, run, 0)
		if err == syscall.EINTR { // the scheduler's own signal
			continue
		}
		reason := *(*uint32)(unsafe.Pointer(&state[exitReasonOffset]))
		data := state[*(*uint64)(unsafe.Pointer(&state[ioDataOffset]))]
		if err != nil || reason != exitIO || data != byte(n) {
			return n, fmt.Errorf("%v, reason %d, data %d", err, reason, data)
		}
		n++
	}
	return n, nil
}

// Work for the collector until `stop` is closed.
func litter(stop chan bool, n *int) {
	var keep [][]byte
	for {
		select {
		case <-stop:
			return
		default:
			keep = append(keep, make([]byte, 10000))
			if len(keep) > 300 {
				keep = nil
				runtime.GC()
			}
			*n++
		}
	}
}

func guests() {
	const n, exits = 6, 3000
	var group sync.WaitGroup
	stop, work := make(chan bool), 0
	go litter(stop, &work)
	results := make(chan error, n)
	for i := 0; i < n; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			got, err := countExits(exits)
			if err == nil && got != exits {
				err = fmt.Errorf("%d exits", got)
			}
			results <- err
		}()
	}
	group.Wait()
	close(stop)
	close(results)
	for err := range results {
		check(err == nil, "a guest in a goroutine", err)
	}
	fd, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	check(err == nil, "os.OpenFile", err)
	info, err := fd.Stat()
	check(err == nil && info.Mode()&os.ModeCharDevice != 0, "its Stat", err)
	version, err := ioctl(int(fd.Fd()), getAPIVersion, 0)
	check(version == 12, "its API version", err)
	check(fd.Close() == nil, "its Close")
}

func spin(until time.Time) int {
	n := 0
	for time.Now().Before(until) {
		for i := 0; i < 100000; i++ {
			n += i & 3
		}
	}
	return n
}

func plain() {
	var group sync.WaitGroup
	var lock sync.Mutex
	total := 0
	for i := 0; i < 100; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			spin(time.Now().Add(2 * time.Millisecond))
			lock.Lock()
			total += i
			lock.Unlock()
		}(i)
	}
	runtime.GC()
	group.Wait()
	check(total == 4950, "goroutines", total)
	func() {
		defer func() { check(recover() != nil, "a nil pointer is a panic") }()
		var p *int
		*p = 1
	}()
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	check(<-caught == syscall.SIGUSR1, "os/signal")
	out, err := exec.Command("sh", "-c", "echo $((6 * 7))").CombinedOutput()
	check(err == nil && strings.TrimSpace(string(out)) == "42", "os/exec", err, string(out))
	_, err = exec.Command("/no/such/file").CombinedOutput()
	check(os.IsNotExist(err), "os/exec of what is not there", err)
	self, err := os.Executable()
	check(err == nil && strings.HasSuffix(self, "client-go"), "os.Executable", self, err)
	select {
	case <-time.After(20 * time.Millisecond):
		check(true, "a timer")
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "guest" {
		if _, err := countExits(10); err != nil {
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "environment" { // its own is without our library, if it has a loader; its children's is not
		out, err := exec.Command("sh", "-c", "basename ${LD_PRELOAD%%:*}").Output()
		if err != nil || strings.Contains(os.Getenv("LD_PRELOAD"), "libvitrine") {
			os.Exit(1)
		}
		fmt.Print(string(out))
		return
	}
	plain()
	if len(os.Args) < 2 || os.Args[1] != "plain" {
		guests()
		err := exec.Command(os.Args[0], "guest").Run()
		check(err == nil, "a child runs a guest", err)
		plain()
	}
	if hasFailed {
		os.Exit(1)
	}
}
