package systemd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func env(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	n := New(env(map[string]string{"NOTIFY_SOCKET": path}))
	if err := n.Notify(Ready, Status("2 sessions\nnow"), MainPID(42)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	k, err := c.Read(buf)
	if got, want := string(buf[:k]), "READY=1\nSTATUS=2 sessions now\nMAINPID=42"; err != nil || got != want {
		t.Errorf("told %q, %v, want %q", got, err, want)
	}
	c.Close()
	if err := n.Notify(Ready); err == nil {
		t.Error("no error where nobody listens")
	}
	for _, none := range []map[string]string{nil, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": ""}} {
		n := New(env(none))
		if err := errors.Join(n.Notify(Ready), n.Reloading()); err != nil {
			t.Errorf("%v: %v", none, err)
		}
	}
}

func TestWatchdogTime(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"3000000", "", 3 * time.Second}, {"3000000", self, 3 * time.Second}, {"3000000", "1", 0},
		{"", self, 0}, {"-1", self, 0}, {"x", self, 0}, {"9223372036854775807", self, 24 * time.Hour},
	} {
		m := map[string]string{"NOTIFY_SOCKET": "@busel-test", "WATCHDOG_USEC": c.usec}
		if c.pid != "" {
			m["WATCHDOG_PID"] = c.pid
		}
		if got := New(env(m)).every; got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// The service manager hears of a life only while the program answers.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int64
		var hangs atomic.Bool
		n := &Notifier{every: 10 * time.Second, send: func(text string) error {
			if text != watchdog {
				t.Errorf("told %q", text)
			}
			told.Add(1)
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- n.Watch(ctx, func(ctx context.Context) error {
				if hangs.Load() {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if told.Load() != 13 {
			t.Errorf("told %d times in a minute", told.Load())
		}
		hangs.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if told.Load() != 13 {
			t.Error("told of a life while the program hangs")
		}
		hangs.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if told.Load() == 13 {
			t.Error("not told after the program was well again")
		}
		cancel()
		<-done
	})
}
