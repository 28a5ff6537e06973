//go:build unix

package systemd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// barrierTimeout is that of sd_notify_barrier(3) in systemd's own programs.
const barrierTimeout = 5 * time.Second

// barrier waits until the service manager has read what was told before: it closes
// the pipe's end that it is sent. A message of a process that has ended meanwhile is
// dropped, since nothing says any more which service that was.
func barrier(addr string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return errors.Join(err, w.Close())
	}
	// package net sends no rights over a connected datagram socket.
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = syscall.Sendmsg(int(fd), []byte("BARRIER=1"), syscall.UnixRights(int(w.Fd())), nil, 0)
		return !errors.Is(sent, syscall.EAGAIN)
	})
	if err := errors.Join(err, sent, w.Close(), r.SetReadDeadline(time.Now().Add(barrierTimeout))); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("it does not say that it heard: %w", err)
	}
	return nil
}
