package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"busel/config"
	"busel/internal/handover"
	"busel/transport"
	"busel/transport/mirror"
	"busel/transport/quic"
)

// ports are the sockets that a relay listens on. Those that an elder gave are taken
// before any is opened, and a successor gets what is open then.
type ports struct {
	elder *handover.Elder // nil if there is none

	mu    sync.Mutex
	ahead map[string]any          // opened before they are used
	used  map[string]syscall.Conn // the last one of each name, which may be closed
}

func newPorts(elder *handover.Elder) *ports {
	return &ports{elder: elder, ahead: make(map[string]any), used: make(map[string]syscall.Conn)}
}

// prepare opens everything that the settings name, so that a relay that says it is
// ready has it. What was not used in the end is closed by close.
func (p *ports) prepare(ctx context.Context, set *config.Relay) error {
	for _, addr := range set.Listen {
		if slices.Contains(set.Transports, mirror.Kind) {
			if err := p.keep(p.tcp(ctx, addr)); err != nil {
				return err
			}
		}
	}
	if slices.Contains(set.Transports, quic.Kind) {
		for _, addr := range udpAddrs(set) {
			if err := p.keep(p.udp(ctx, addr)); err != nil {
				return err
			}
		}
	}
	if set.Metrics != "" {
		return p.keep(p.metrics(ctx, set.Metrics))
	}
	return nil
}

// port is a socket with its name.
type port[T any] struct {
	name   string
	socket T
}

func (p *ports) keep(opened interface{ named() (string, any) }, err error) error {
	if err != nil {
		return err
	}
	name, socket := opened.named()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead[name] = socket
	return nil
}

func (o port[T]) named() (string, any) { return o.name, o.socket }

// open returns what was opened before, or was given, or a fresh socket.
func open[T any](p *ports, name string, adopt func(*os.File) (T, error), fresh func() (T, error)) (port[T], error) {
	p.mu.Lock()
	v, kept := p.ahead[name]
	delete(p.ahead, name)
	var given *os.File
	if !kept && p.elder != nil {
		given = p.elder.Take(name)
	}
	p.mu.Unlock()
	if kept {
		return port[T]{name, v.(T)}, nil
	}
	var socket T
	var err error
	if given != nil {
		socket, err = adopt(given)
		_ = given.Close()
	} else {
		socket, err = fresh()
	}
	if err != nil {
		return port[T]{}, err
	}
	if c, ok := any(socket).(syscall.Conn); ok {
		p.mu.Lock()
		p.used[name] = c
		p.mu.Unlock()
	}
	return port[T]{name, socket}, nil
}

func (p *ports) tcp(ctx context.Context, addr string) (port[net.Listener], error) {
	return open(p, "tcp "+addr, net.FileListener, func() (net.Listener, error) { return transport.System{}.Listen(ctx, addr) })
}

func (p *ports) udp(ctx context.Context, addr string) (port[net.PacketConn], error) {
	return open(p, "udp "+addr, net.FilePacketConn, func() (net.PacketConn, error) {
		return transport.System{}.ListenPacket(ctx, "udp", addr)
	})
}

// udps opens all, or none.
func (p *ports) udps(ctx context.Context, addrs []string) (all []net.PacketConn, err error) {
	for _, addr := range addrs {
		opened, err := p.udp(ctx, addr)
		if err != nil {
			for _, c := range all {
				_ = c.Close()
			}
			return nil, err
		}
		all = append(all, opened.socket)
	}
	return all, nil
}

// udpAddrs are where QUIC listens: a range takes the place of the ports of listen,
// unless the site answers there.
func udpAddrs(set *config.Relay) (addrs []string) {
	ranged := portRange(set)
	if set.Cover == config.CoverBuiltin || len(ranged) == 0 {
		addrs = append(addrs, set.Listen...)
	}
	return append(addrs, ranged...)
}

func (p *ports) metrics(ctx context.Context, addr string) (port[net.Listener], error) {
	return open(p, "metrics "+addr, net.FileListener, func() (net.Listener, error) {
		path, ok := strings.CutPrefix(addr, config.UnixPrefix)
		if !ok {
			return transport.System{}.Listen(ctx, addr)
		}
		return listenUnix(ctx, path)
	})
}

// listenUnix makes a socket for the user and the group of the relay. One that
// nobody answers on is left from an earlier run.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	}
	if info, serr := os.Lstat(path); serr == nil && info.Mode()&os.ModeSocket != 0 && errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // a successor goes on with it
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// give gives a successor what is open.
func (p *ports) give(s *handover.Successor) error {
	p.mu.Lock()
	used := maps.Clone(p.used)
	p.mu.Unlock()
	for name, c := range used {
		if err := s.Give(name, c); err != nil {
			return err
		}
	}
	return nil
}

// close closes what was opened ahead and not used.
func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, v := range p.ahead {
		_ = v.(io.Closer).Close()
		delete(p.ahead, name)
	}
}
