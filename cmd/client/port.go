package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"busel/internal/state"
)

// Ports are drawn from below those that systems give to connections (Linux from 32768,
// Windows and macOS from 49152), so that the port is free in every run, and above those
// that services are known by.
const (
	lowestPort = 20000
	ports      = 12000
	draws      = 64
)

// keptPort puts the port that was drawn in a former run into the address, or draws one;
// kept must be called once the proxy listens there. Who scans this computer for proxies
// has to try them all.
func keptPort(ctx context.Context, dir *state.Dir, at netip.AddrPort) (_ netip.AddrPort, kept func() error, err error) {
	text, err := dir.Read(state.PortFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return at, nil, err
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16); err == nil && n != 0 {
		return netip.AddrPortFrom(at.Addr(), uint16(n)), func() error { return nil }, nil
	}
	var lc net.ListenConfig
	for range draws {
		var b [4]byte
		_, _ = rand.Read(b[:]) // it never fails
		at = netip.AddrPortFrom(at.Addr(), uint16(lowestPort+binary.NativeEndian.Uint32(b[:])%ports))
		ln, err := lc.Listen(ctx, "tcp", at.String())
		if err != nil {
			continue
		}
		ln.Close()
		return at, func() error { return dir.Write(state.PortFile, []byte(strconv.Itoa(int(at.Port()))+"\n")) }, nil
	}
	return at, nil, errors.New("no free port was found")
}
