// Package systemd tells the service manager how a program does, as sd_notify(3)
// and sd_watchdog_enabled(3) describe. Where there is none it does nothing.
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// What a program tells. [MainPID] and [Status] make others.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"

	watchdog = "WATCHDOG=1"
)

// MainPID says that another process of the service is its main one from now on.
// Only the main process is heard (NotifyAccess=main).
func MainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// Status is a line for people, which `systemctl status` shows.
func Status(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }

// Notifier is the way to the service manager. The zero value has none.
type Notifier struct {
	send  func(text string) error
	heard func() error  // returns when all that was sent is read
	every time.Duration // within which it wants a sign of life; 0 is never
}

// New finds the service manager in the environment.
func New(lookup func(string) (string, bool)) *Notifier {
	addr, _ := lookup("NOTIFY_SOCKET")
	if !strings.HasPrefix(addr, "/") && !strings.HasPrefix(addr, "@") {
		return new(Notifier)
	}
	n := &Notifier{heard: func() error { return barrier(addr) }, send: func(text string) error {
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	}}
	usec, _ := lookup("WATCHDOG_USEC")
	pid, named := lookup("WATCHDOG_PID")
	if d, err := strconv.ParseInt(usec, 10, 64); err == nil && d > 0 && (!named || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(min(d, int64(24*time.Hour/time.Microsecond))) * time.Microsecond
	}
	return n
}

// Notify tells states.
func (n *Notifier) Notify(states ...string) error {
	if n.send == nil {
		return nil
	}
	if err := n.send(strings.Join(states, "\n")); err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return nil
}

// NotifyHeard is Notify that returns when the service manager has read the states, so
// that the program may end.
func (n *Notifier) NotifyHeard(states ...string) error {
	if err := n.Notify(states...); err != nil || n.heard == nil {
		return err
	}
	if err := n.heard(); err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return nil
}

// Reloading says that the program reads its settings again; Ready must follow. Its
// time is the kernel's monotonic clock, which Type=notify-reload compares.
func (n *Notifier) Reloading() error {
	if n.send == nil {
		return nil
	}
	return n.Notify("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonic()/time.Microsecond))
}

// Watch tells the service manager that the program lives, as often as it wants to
// hear it, as long as alive returns nil: it is asked twice in that time and has half
// of it to answer. Without an answer nothing is told, and the service manager
// restarts the program. Watch returns when ctx ends.
func (n *Notifier) Watch(ctx context.Context, alive func(context.Context) error, log *slog.Logger) error {
	if n.every == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	tick := time.NewTicker(n.every / 2)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, n.every/2)
		err := alive(bounded)
		cancel()
		if err == nil {
			err = n.Notify(watchdog)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("the relay does not answer itself", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
