package main

import (
	"testing"
	"testing/fstest"

	"busel/config"
)

// The least of machine and control groups holds, whichever that is.
func TestLeastMemory(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	machine := file("MemTotal:         482748 kB\nMemFree:           1 kB\n")
	for _, tt := range []struct {
		name string
		root fstest.MapFS
		want int64
	}{
		{"nothing", fstest.MapFS{}, 0},
		{"nonsense", fstest.MapFS{"proc/meminfo": file("MemTotal: many kB"), "proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("-5")}, 0},
		{"machine", fstest.MapFS{"proc/meminfo": machine, "proc/self/cgroup": file("0::/init\n"), "sys/fs/cgroup/init/memory.max": file("max\n")}, 482748 << 10},
		{"service", fstest.MapFS{"proc/meminfo": machine, "proc/self/cgroup": file("0::/system.slice/busel-relay.service\n"), "sys/fs/cgroup/system.slice/busel-relay.service/memory.max": file("370749440\n")}, 370749440},
		{"above it", fstest.MapFS{"proc/meminfo": machine, "proc/self/cgroup": file("0::/a/b/c\n"), "sys/fs/cgroup/a/memory.max": file("1000000\n"), "sys/fs/cgroup/a/b/c/memory.max": file("2000000\n")}, 1000000},
		{"container", fstest.MapFS{"proc/meminfo": machine, "proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("134217728\n")}, 134217728},
		{"version 1", fstest.MapFS{"proc/meminfo": machine, "proc/self/cgroup": file("5:memory:/a\n0::/a\n")}, 482748 << 10},
	} {
		if got := leastMemory(tt.root); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// Connections have to find room in descriptors and in memory.
func TestConnsEach(t *testing.T) {
	for _, tt := range []struct {
		cover  string
		ports  int
		files  uint64
		memory int64
		want   int
	}{
		{"127.0.0.1:8443", 1, 0, 0, 4096},
		{"127.0.0.1:8443", 2, 65536, 0, 2048},
		{"127.0.0.1:8443", 1, 1024, 1 << 30, 256},
		{"127.0.0.1:8443", 1, 65536, 354 << 20, 4096}, // three quarters of 512 MB, less the kernel's
		{"127.0.0.1:8443", 1, 65536, 96 << 20, 2457},
		{config.CoverBuiltin, 1, 65536, 354 << 20, 2265},
		{config.CoverBuiltin, 1, 65536, 640 << 20, 4096},
		{config.CoverBuiltin, 2, 65536, 64 << 20, 204},
		{config.CoverBuiltin, 1, 1, 1, 1},
	} {
		s := &server{set: config.Relay{Cover: tt.cover, Listen: make([]string, tt.ports)}}
		if got := s.connsEach(tt.files, tt.memory); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}
