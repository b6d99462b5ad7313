// SPDX-License-Identifier: MIT

//go:build cgo

// Makes it a program that has glibc and its threads, and still makes its own system calls: what "go build" gives for many programs.
package main

import "C"
