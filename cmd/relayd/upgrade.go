package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/handover"
	"busel/internal/systemd"
	"busel/transport"
)

const (
	// drainWithin is how long a relay that another one has replaced keeps sessions
	// by default: longer than almost all streams, and short enough that an old
	// version does not stay for days.
	drainWithin = 12 * time.Hour
	// readyWithin is how long a new relayd may take until it could serve. A person
	// waits, and the exchange that asks for it lasts [control.Timeout].
	readyWithin = 8 * time.Second
	// lockName is under what name the lock of the directory is handed over.
	lockName = "lock"
)

func upgradeCommand() cli.Command {
	return cli.Command{
		Name: "upgrade", Summary: "replace the running relay without breaking streams",
		Help: `
Starts the relayd program anew, as it is on disk now, with the settings as they are
now, and gives it the ports of the one that runs. That one accepts nobody any more,
and goes on with the downloads and calls that run through it until they end, or
until -within is over. If the new one cannot start, all stays as it is.

Use it after a new version was installed, or after a change of relayd.toml that the
log says a reload cannot make.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			within := flags.Duration("within", drainWithin, "how `long` streams may go on in the old relayd")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				if *within < 0 {
					return &cli.UsageError{Reason: "-within is a time such as 30m or 12h"}
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				return upgrade(ctx, std, dir.Socket(), *within)
			}
		},
	}
}

// upgradeArgs and upgradeResult are what `relayd upgrade` says to the relay.
type (
	upgradeArgs struct {
		Within time.Duration `json:"within_ns"`
	}
	upgradeResult struct {
		PID int `json:"pid"` // of the new process
	}
)

func upgrade(ctx context.Context, std cli.Std, socket string, within time.Duration) error {
	var made upgradeResult
	err := control.Call(ctx, socket, "upgrade", upgradeArgs{within}, &made)
	if errors.Is(err, control.ErrNotRunning) {
		return cli.Hint(errNotRunning, "start it with: relayd run")
	}
	if remote, ok := errors.AsType[*control.RemoteError](err); ok {
		return cli.Hint(remote, "the relay that runs goes on as before")
	}
	if err != nil {
		return err
	}
	// The old one has answered; now the new one must.
	ctx, cancel := context.WithTimeout(ctx, control.Timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var st status
		err := control.Call(ctx, socket, "status", nil, &st)
		if err == nil && st.PID == made.PID {
			fmt.Fprintf(std.Err, "relayd: process %d serves, version %s\n", st.PID, st.Version)
			if d := st.Draining; d != nil && d.Sessions > 0 {
				fmt.Fprintf(std.Err, "relayd: process %d goes on with %s for at most %v\n", d.PID, cli.Count(d.Sessions, "session"), within)
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return cli.Hint(fmt.Errorf("the new relayd, process %d, does not answer", made.PID), "its log says why; start a relay with: relayd run")
		}
	}
}

// ownCommand is what started this program: its name may lead to another version by
// the time that it is run again.
func ownCommand() []string {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path = os.Args[0]
	}
	return append([]string{path}, os.Args[1:]...)
}

// succession is how a relay gives its place to another: parts of it end at the
// door, that is when the new one begins, and others when the last stream has.
type succession struct {
	command []string
	log     *slog.Logger
	notify  *systemd.Notifier
	give    func(*handover.Successor) error // all that is handed over
	drain   func(transport.Listener)        // makes no sessions any more
	leave   func()                          // accepts nobody any more
	status  func() any
	reload  func()

	busy  atomic.Bool
	next  *handover.Successor // set before begun is closed, and within
	limit time.Duration
	begun chan struct{}
	doors sync.WaitGroup // parts that end at the door
	rooms sync.WaitGroup // those that end with the last stream
}

// upgrade starts a new relay. Do of the result lets it begin.
func (s *succession) upgrade(ctx context.Context, args upgradeArgs) (any, error) {
	if !s.busy.CompareAndSwap(false, true) {
		return nil, errors.New("a new relayd takes over already")
	}
	next, err := handover.Start(s.command, s.log)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, readyWithin)
		defer cancel()
		if err = s.give(next); err == nil {
			err = next.Ready(ctx)
		}
		if err != nil {
			next.Abort()
		}
	}
	if err != nil {
		s.busy.Store(false)
		return nil, err
	}
	s.next, s.limit = next, max(args.Within, 0)
	return control.Then{Result: upgradeResult{next.PID()}, Do: func() {
		// In this order: the end of a listener ends a relay that does not drain, and
		// the end of a part a program of which no other one has begun.
		s.drain(next)
		close(s.begun)
	}}, nil
}

// atDoor makes a part end when the new relay begins.
func (s *succession) atDoor(part func(context.Context) error) func(context.Context) error {
	s.doors.Add(1)
	return func(ctx context.Context) error {
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			select {
			case <-s.begun:
				cancel()
			case <-inner.Done():
			}
		}()
		err := part(inner)
		cancel()
		<-done
		s.doors.Done()
		return s.unless(ctx, err)
	}
}

// inRoom makes the relay wait for a part when the new one has begun.
func (s *succession) inRoom(part func(context.Context) error) func(context.Context) error {
	s.rooms.Add(1)
	return func(ctx context.Context) error {
		err := part(ctx)
		s.rooms.Done()
		return s.unless(ctx, err)
	}
}

// after makes the relay, once the new one has begun, wait until done is closed.
func (s *succession) after(done <-chan struct{}) func(context.Context) error {
	s.rooms.Add(1)
	return func(ctx context.Context) error {
		select {
		case <-done:
		case <-ctx.Done():
		}
		s.rooms.Done()
		<-ctx.Done()
		return context.Cause(ctx)
	}
}

// unless returns the error of a part that ended, but when that was meant to be it
// waits for the end of all.
func (s *succession) unless(ctx context.Context, err error) error {
	select {
	case <-s.begun:
		<-ctx.Done()
		return context.Cause(ctx)
	default:
		return err
	}
}

// run waits until the new relay begins, and then for the last stream; its return
// ends the program.
func (s *succession) run(ctx context.Context) error {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.leave()
	s.doors.Wait()
	err := s.notify.NotifyHeard(systemd.MainPID(s.next.PID()))
	if err := errors.Join(err, s.next.Go()); err != nil {
		s.log.Error("the new relayd was not told to begin", "err", err)
	}
	s.log.Info("a new relayd has taken over; this one goes on with its sessions", "pid", s.next.PID(), "within", s.limit)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		err := s.next.Serve(ctx, s.status, s.reload)
		if ctx.Err() == nil {
			s.log.Warn("the new relayd is gone", "err", err)
		}
	})
	empty := make(chan struct{})
	go func() { // ends with the rooms, at the latest when the program ends
		defer close(empty)
		s.rooms.Wait()
	}()
	limit := time.NewTimer(s.limit)
	defer limit.Stop()
	select {
	case <-empty:
		s.log.Info("the last session has ended")
	case <-limit.C:
		s.log.Info("the time for sessions is over, those that are left end")
	case <-ctx.Done():
	}
	return nil
}

// handle answers `relayd upgrade`.
func (s *succession) handle(ctx context.Context, raw json.RawMessage) (any, error) {
	var args upgradeArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return nil, err
	}
	return s.upgrade(ctx, args)
}
